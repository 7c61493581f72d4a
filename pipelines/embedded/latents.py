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

from pipelines.embedded import captions, world
from pipelines.embedded.train_text import encode, load_encoders

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Training examples and the empty prompt.

    ``latents`` (n, 16, 64) packed and normalised, ``pooled`` (n, width), ``tokens``
    (n, T5_LENGTH, width), all float16; ``two`` (n,) bool, whether there are two objects. The empty
    prompt is ``empty_pooled`` (width,) and ``empty_tokens`` (T5_LENGTH, width).
    """

    latents: Tensor
    pooled: Tensor
    tokens: Tensor
    two: Tensor
    empty_pooled: Tensor
    empty_tokens: Tensor


def cache_examples(run: Path, *, n: int, device: str, seed: int = 3, part: int = 500) -> None:
    """Make n examples with the encoders trained in ``run`` and write ``run/latents``."""
    generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    vae = AutoencoderKL.from_pretrained(run / "vae").to(device)
    encoders = load_encoders(run / "text")
    columns: dict[str, list[Tensor]] = {"latents": [], "pooled": [], "tokens": [], "two": []}
    for done in range(0, n, part):
        codes = world.sample_codes(part, generator, two_objects=0.6)
        latents = encode_images(vae, world.render(codes, generator).to(device))
        sentences = captions.captions(codes, rng)
        pooled, tokens = encode(encoders, [sentence.text for sentence in sentences])
        columns["latents"].append(latents.half().cpu())
        columns["pooled"].append(pooled.half())
        columns["tokens"].append(tokens.half())
        columns["two"].append(codes[:, world.LAYOUT] != world.CENTRE)
        if done % 10_000 == 0:
            log.info("latents %d of %d", done, n)
    tensors = {name: torch.cat(parts) for name, parts in columns.items()}
    empty_pooled, empty_tokens = encode(encoders, [""])
    tensors |= {"empty_pooled": empty_pooled[0].half(), "empty_tokens": empty_tokens[0].half()}
    (run / "latents").mkdir(exist_ok=True)
    save_file(tensors, run / "latents" / "examples.safetensors")


def load_examples(run: Path) -> Examples:
    """Read what ``cache_examples`` wrote."""
    return Examples(**load_file(run / "latents" / "examples.safetensors"))


@torch.no_grad()
def encode_images(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Packed, normalised latents (n, tokens, 64) of images (n, 3, h, w) in [0, 1]."""
    with torch.autocast(images.device.type, torch.bfloat16):
        mean = vae.encode(images * 2 - 1).latent_dist.mean.float()  # type: ignore[union-attr]
    latents = (mean - vae.config["shift_factor"]) * vae.config["scaling_factor"]
    return FluxPipeline._pack_latents(latents, *latents.shape)


@torch.no_grad()
def decode_latents(vae: AutoencoderKL, packed: Tensor, *, size: int = world.SIZE) -> Tensor:
    """Images (n, 3, size, size) in [0, 1] of packed latents: the pipeline's own arithmetic."""
    latents = FluxPipeline._unpack_latents(packed, size, size, vae_scale_factor=8)
    latents = latents / vae.config["scaling_factor"] + vae.config["shift_factor"]
    return (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)  # type: ignore[union-attr]
