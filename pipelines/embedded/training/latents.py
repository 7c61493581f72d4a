"""Phase *latents*: scenes, drawn, encoded and put into words once, so that training the flow runs
neither the autoencoder nor a text encoder.
"""

import logging
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines.embedded.training import captions, world
from pipelines.embedded.training.flow import autocast
from pipelines.embedded.training.train_text import encode, load_encoders
from pipelines.embedded.training.world import Canvas

logger = logging.getLogger(__name__)

COUNTS = (32_000, 5_000, 5_000, 5_000, 6_000)
"""How many examples of each of ``world.CANVASES``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Training examples of one size, and the empty prompt.

    ``latents`` (n, tokens, 64) packed and normalised, ``pooled`` (n, width), ``tokens``
    (n, T5_LENGTH, width), all float16; ``two`` (n,) bool, whether there are two objects. The empty
    prompt is ``empty_pooled`` (width,) and ``empty_tokens`` (T5_LENGTH, width).
    """

    latents: Tensor
    pooled: Tensor
    tokens: Tensor
    two: Tensor
    empty_pooled: Tensor
    empty_tokens: Tensor


def cache_examples(run: Path, *, device: str) -> None:
    """Make examples of every size with the encoders trained in ``run``; write ``run/latents``."""
    (run / "latents").mkdir(exist_ok=True)
    for seed, (canvas, n) in enumerate(zip(world.CANVASES, COUNTS, strict=True), 30):
        if not _path(run, canvas).exists():
            _cache(run, canvas, n, device, seed)
    (run / "latents" / "complete").touch()


def _cache(run: Path, canvas: Canvas, n: int, device: str, seed: int) -> None:
    generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    vae = AutoencoderKL.from_pretrained(run / "vae")
    vae.to(device)  # pyright: ignore[reportArgumentType]
    encoders = load_encoders(run / "text")
    part = min(n, 8000 // canvas.tokens)
    columns: dict[str, list[Tensor]] = {"latents": [], "pooled": [], "tokens": [], "two": []}
    for _ in range(-(-n // part)):
        codes = world.sample_codes(part, generator, two_objects=0.5)
        images = world.render(codes, generator, canvas)
        sentences = captions.captions(codes, rng)
        pooled, tokens = encode(encoders, [sentence.text for sentence in sentences])
        columns["latents"].append(encode_images(vae, images.to(device)).half().cpu())
        columns["pooled"].append(pooled.half())
        columns["tokens"].append(tokens.half())
        columns["two"].append(world.has_two(codes))
    tensors = {name: torch.cat(parts) for name, parts in columns.items()}
    empty_pooled, empty_tokens = encode(encoders, [""])
    tensors |= {"empty_pooled": empty_pooled[0].half(), "empty_tokens": empty_tokens[0].half()}
    save_file(tensors, _path(run, canvas))
    logger.info("latents: %d of %s", len(tensors["two"]), canvas)


def load_examples(run: Path, canvas: Canvas) -> Examples:
    """Read what ``cache_examples`` wrote for one size."""
    return Examples(**load_file(_path(run, canvas)))


def _path(run: Path, canvas: Canvas) -> Path:
    return run / "latents" / f"{canvas}.safetensors"


@torch.no_grad()
def encode_images(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Packed, normalised latents (n, tokens, 64) of images (n, 3, h, w) in [0, 1]."""
    with autocast(images.device.type):
        mean = vae.encode(images * 2 - 1).latent_dist.mean.float()  # type: ignore[union-attr]
    latents = (mean - vae.config["shift_factor"]) * vae.config["scaling_factor"]
    return FluxPipeline._pack_latents(latents, *latents.shape)


@torch.no_grad()
def decode_latents(vae: AutoencoderKL, packed: Tensor, canvas: Canvas) -> Tensor:
    """Images (n, 3, h, w) in [0, 1] of packed latents: the pipeline's own arithmetic."""
    latents = FluxPipeline._unpack_latents(packed, *canvas, vae_scale_factor=8)
    latents = latents / vae.config["scaling_factor"] + vae.config["shift_factor"]
    return (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)  # type: ignore[union-attr]
