"""Phase *vae*: an autoencoder for flat shapes, 8 times smaller on each side, 16 channels.

Images are (n, 3, h, w) float32 in [-1, 1], latents (n, 16, h / 8, w / 8). Decoding a slightly wrong
latent must still give a clean picture, because the flow's latents are never exact: noise is added
to the latents while training, on top of the posterior's own.
"""

import json
import logging
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from pipelines.embedded.training import checker, world
from pipelines.embedded.training.budget import Budget, annealed
from pipelines.embedded.training.muon import Muon

logger = logging.getLogger(__name__)

LATENT_CHANNELS = 16
KL_WEIGHT = 3e-5
LATENT_NOISE = 0.1
LEARNING_RATE = 2e-3


class RoundTrip(NamedTuple):
    """How well pictures survive the autoencoder: the share read right, and the error."""

    accuracy: float
    mean_absolute_error: float
    n: int


def build_vae() -> AutoencoderKL:
    """An untrained autoencoder, narrow where the picture is large.

    One norm group: with eight channels, more groups would be instance norm and lose colour.
    """
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * 4,  # pyright: ignore[reportArgumentType]
        block_out_channels=(16, 32, 64, 96),  # pyright: ignore[reportArgumentType]
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=1,
        sample_size=min(world.CANVASES[0]),
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )
    for name, parameter in vae.named_parameters():
        if name.endswith(("conv2.weight", "conv2.bias")):
            nn.init.zeros_(parameter)  # every residual branch starts as nothing
    return vae


def train_vae(
    out: Path, *, minutes: float, device: str, start: Path | None = None, seed: int = 1
) -> None:
    """Train for so many minutes and save the diffusers folder ``out`` with ``training.json``.

    ``start`` is the folder of an autoencoder to begin with, instead of from nothing.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    vae = AutoencoderKL.from_pretrained(start) if start else build_vae()
    vae = vae.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    kernels = [p for p in vae.parameters() if p.ndim == 4]
    others = [p for p in vae.parameters() if p.ndim != 4]
    optimizers = [Muon(kernels, lr=LEARNING_RATE), torch.optim.AdamW(others, lr=LEARNING_RATE)]
    budget, step, pictures = Budget(minutes=minutes), 0, 0
    while (fraction := budget.fraction()) < 1:
        images = _batch(generator).to(device) * 2 - 1
        loss, error = _loss(vae, images)
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * annealed(fraction)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step, pictures = step + 1, pictures + len(images)
        if step % 100 == 0:
            trip = round_trip(vae, n=64, device=device)
            logger.info("vae %d %.0fs mae %.4f %s", step, budget.seconds(), error.item(), trip)
    mean, std = _latent_statistics(vae, device=device)
    vae.register_to_config(scaling_factor=1 / std, shift_factor=mean)
    record: dict[str, object] = {"steps": step, "images": pictures}
    record["seconds"] = round(budget.seconds())
    for canvas in world.CANVASES:
        n = 1000 if canvas == world.CANVASES[0] else 200
        trip = round_trip(vae, n=n, device=device, canvas=canvas)
        logger.info("vae done: mean %.4f std %.4f, %s %s", mean, std, canvas, trip)
        record[str(canvas)] = trip._asdict()
    if start and (start / "training.json").exists():
        record["before"] = json.loads((start / "training.json").read_text())
    vae.save_pretrained(out)
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")


def _batch(generator: torch.Generator) -> Tensor:
    """Pictures of one size, as many as cost the same: half of the batches have the default size."""
    draw = int(torch.randint(2 * (len(world.CANVASES) - 1), (1,), generator=generator))
    canvas = world.CANVASES[1 + draw if draw < len(world.CANVASES) - 1 else 0]
    codes = world.sample_codes(256 // canvas.tokens, generator, two_objects=0.5)
    return world.render(codes, generator, canvas)


def _loss(vae: AutoencoderKL, images: Tensor) -> tuple[Tensor, Tensor]:
    """The training loss, and its mean absolute error alone."""
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, torch.bfloat16):
        posterior = vae.encode(images).latent_dist  # type: ignore[union-attr]
        mean, std = posterior.mean.float(), posterior.std.float()
        noise = (std.square() + LATENT_NOISE**2).sqrt() * torch.randn_like(mean)
        decoded = vae.decode(mean + noise).sample.float()  # type: ignore[union-attr]
    difference = decoded - images
    error = difference.abs().mean()
    divergence = 0.5 * (mean.square() + std.square() - 1 - posterior.logvar.float()).mean()
    return error + 2 * difference.square().mean() + KL_WEIGHT * divergence, error


@torch.no_grad()
def round_trip(
    vae: AutoencoderKL,
    *,
    n: int,
    device: str,
    canvas: world.Canvas = world.CANVASES[0],
    seed: int = 7,
) -> RoundTrip:
    """Encode and decode n held-out pictures, half of them with two objects, and check them."""
    generator = torch.Generator().manual_seed(seed)
    codes = world.sample_codes(n, generator, held_out=True)
    images = world.render(codes, generator, canvas)
    parts = []
    for part in images.split(50):
        latents = vae.encode(part.to(device) * 2 - 1).latent_dist.mean  # type: ignore[union-attr]
        parts.append(vae.decode(latents).sample.float().cpu() / 2 + 0.5)  # type: ignore[union-attr]
    decoded = torch.cat(parts).clamp(0, 1)
    accuracy = checker.judge(decoded, codes).all.float().mean().item()
    return RoundTrip(accuracy, (decoded - images).abs().mean().item(), n)


@torch.no_grad()
def _latent_statistics(vae: AutoencoderKL, *, device: str, n: int = 1000) -> tuple[float, float]:
    """Mean and standard deviation over all latents: the shift and one over the scale."""
    generator = torch.Generator().manual_seed(11)
    images = world.render(world.sample_codes(n, generator), generator)
    parts = [
        vae.encode(part.to(device) * 2 - 1).latent_dist.mean  # type: ignore[union-attr]
        for part in images.split(100)
    ]
    latents = torch.cat(parts).float()
    return latents.mean().item(), latents.std().item()
