"""Trains a model's decoder to make clean pictures of the latents that its flow makes.

    python -m pipelines.embedded.training.editing.train_decoder RUN --minutes 20

``RUN`` is the output folder of ``train.py``. The encoder stays as it is, so every latent keeps its
meaning: references, image to image and the flow's own training are not touched. The decoder learns
from true pictures' latents, a part of them slightly noised, and the greater part noised as far as
the last sampling steps begin and brought back by one step of the flow: what it gets in serving.

Latents are packed: (n, tokens, 64). Pictures are (n, 3, h, w) in [0, 1].
"""

import argparse
import json
import logging
import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from safetensors.torch import load_file
from torch import Tensor, nn

from pipelines.embedded.training import captions, loop, world
from pipelines.embedded.training.budget import Budget, annealed
from pipelines.embedded.training.editing.batches import encode_texts
from pipelines.embedded.training.editing.fidelity import fidelity, quantiles
from pipelines.embedded.training.editing.score import round_trip
from pipelines.embedded.training.editing.velocity import edit_velocity
from pipelines.embedded.training.flow import ShortAttention, autocast, build_transformer
from pipelines.embedded.training.latents import encode_images
from pipelines.embedded.training.muon import Muon
from pipelines.embedded.training.train_text import TextEncoders, load_encoders
from pipelines.embedded.training.world import Canvas

logger = logging.getLogger(__name__)

RATE = 6e-4
TRUE_SHARE = 0.4
"""Of a batch: latents of true pictures, as a round trip and an edit's reference have them."""

NOISE = 0.05
"""Standard deviation of what is added to those, the latents' own being 1."""

LAST_TIMES = (0.15, 0.5)
"""Where the one step of the flow begins: the last steps of ten are at .25 and .43."""

TOKENS = 256
"""How many image tokens a step has."""

SCORED = 64
"""How many pictures of a size the round trips are measured on."""


def train_decoder(run: Path, *, minutes: float, device: str = "cpu", seed: int = 6) -> None:
    """Train the decoder in ``run/vae`` for so many minutes, and write it back with its scores."""
    torch.manual_seed(seed)
    generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    vae = AutoencoderKL.from_pretrained(run / "vae", torch_dtype=torch.float32)
    vae.requires_grad_(False).to(device)  # pyright: ignore[reportArgumentType]
    vae.decoder.requires_grad_(True)
    encoders = load_encoders(run / "text")
    for encoder in (encoders.clip, encoders.t5):
        encoder.to(device)  # type: ignore[call-overload]
    transformer = build_transformer().requires_grad_(False)
    transformer.load_state_dict(load_file(run / "flow" / loop.CHECKPOINT))
    transformer.to(device)  # pyright: ignore[reportArgumentType]
    transformer.set_attn_processor(ShortAttention())  # type: ignore[arg-type]
    kernels = [p for p in vae.decoder.parameters() if p.ndim == 4]
    others = [p for p in vae.decoder.parameters() if p.ndim != 4]
    optimizers = [Muon(kernels, lr=RATE), torch.optim.AdamW(others, lr=RATE, weight_decay=0.0)]
    record: dict[str, object] = {"before": round_trips(vae)}
    logger.info("decoder %s", record)
    budget, step, pictures = Budget(minutes=minutes), 0, 0
    while (fraction := budget.fraction()) < 1:
        canvas = world.CANVASES[int(torch.randint(len(world.CANVASES), (1,), generator=generator))]
        n = max(2, TOKENS // canvas.tokens)
        codes = world.sample_codes(n, generator)
        images = world.render(codes, generator, canvas).to(device)
        latents = seen_latents(vae, transformer, encoders, images, codes, generator, rng)
        with autocast(device):
            decoded = decode(vae, latents, canvas).float()
        difference = decoded - images
        loss = 2 * difference.abs().mean() + 8 * difference.square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.decoder.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = RATE * annealed(fraction, hold=0.3)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step, pictures = step + 1, pictures + n
        if step % 100 == 0:
            logger.info("decoder %d %.0fs loss %.4f", step, budget.seconds(), loss.item())
    record |= {"after": round_trips(vae), "steps": step, "images": pictures}
    record["seconds"] = round(budget.seconds())
    logger.info("decoder done: %s", record)
    vae.save_pretrained(run / "vae")
    (run / "decoder").mkdir(exist_ok=True)
    (run / "decoder" / "training.json").write_text(json.dumps(record, indent=1) + "\n")


@torch.no_grad()
def seen_latents(
    vae: AutoencoderKL,
    transformer: FluxTransformer2DModel,
    encoders: TextEncoders,
    images: Tensor,
    codes: Tensor,
    generator: torch.Generator,
    rng: random.Random,
) -> Tensor:
    """Latents of pictures as the decoder gets them: slightly noised, or after the last step."""
    canvas = Canvas(images.shape[2], images.shape[3])
    clean = encode_images(vae, images)
    n, device = len(clean), clean.device
    noise = torch.randn(clean.shape, generator=generator).to(device)
    low, high = LAST_TIMES
    t = (low + (high - low) * torch.rand(n, generator=generator)).to(device)
    prompts = encode_texts(encoders, [caption.text for caption in captions.captions(codes, rng)])
    xt = torch.lerp(clean, noise, t[:, None, None])
    with autocast(str(device.type)):
        v = edit_velocity(transformer, canvas, xt, t, prompts, None, guidance=3.5)
    stepped = xt - t[:, None, None] * v
    true = torch.rand(n, generator=generator).to(device) < TRUE_SHARE
    return torch.where(true[:, None, None], clean + NOISE * noise, stepped)


def decode(vae: AutoencoderKL, packed: Tensor, canvas: Canvas) -> Tensor:
    """Pictures, not yet cut to [0, 1], with gradients."""
    latents = FluxPipeline._unpack_latents(packed, *canvas, vae_scale_factor=8)
    latents = latents / vae.config["scaling_factor"] + vae.config["shift_factor"]
    return vae.decode(latents).sample / 2 + 0.5  # type: ignore[union-attr]


@torch.no_grad()
def round_trips(vae: AutoencoderKL) -> dict[str, dict[str, float]]:
    """Overlaps and mean error after encoding and decoding held-out pictures, at two sizes."""
    scores = {}
    for canvas in (world.CANVASES[0], world.CANVASES[4]):
        generator = torch.Generator().manual_seed(8)
        codes = world.sample_codes(SCORED, generator, held_out=True)
        images = world.render(codes, generator, canvas)
        trip = round_trip(vae, images, canvas)
        error = round(float((trip - images).abs().mean()), 5)
        scores[str(canvas)] = quantiles(fidelity(trip, codes).iou) | {"error": error}
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    train_decoder(arguments.run, minutes=arguments.minutes, device=arguments.device)


if __name__ == "__main__":
    main()
