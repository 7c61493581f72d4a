"""Counts, while training goes on, how many of a fixed set of held-out prompts are drawn right."""

import random
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import Tensor

from pipelines.embedded.training import captions, checker, world
from pipelines.embedded.training.flow import CHANNELS, Prompts, sample
from pipelines.embedded.training.latents import decode_latents
from pipelines.embedded.training.train_text import encode, load_encoders
from pipelines.embedded.training.world import Canvas


class View(NamedTuple):
    """A way to draw: the embedded guidance, and the scale of true classifier-free guidance."""

    guidance: float = 1.0
    cfg_scale: float = 1.0


class Shares(NamedTuple):
    """Shares of right pictures: all right with one and with two objects, and the attributes.

    ``shape`` and ``colour`` are those of one object, ``background`` and ``layout`` are over all.
    """

    one: float
    two: float
    shape: float
    colour: float
    background: float
    layout: float


class Evaluator:
    """Draws the same n prompts from the same noise each time, half of them with two objects."""

    def __init__(
        self, run: Path, *, n: int, device: str, canvas: Canvas = world.CANVASES[0], seed: int = 5
    ) -> None:
        generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
        self.canvas = canvas
        self._codes = world.sample_codes(n, generator, two_objects=0.5, held_out=True)
        encoders = load_encoders(run / "text")
        sentences = captions.captions(self._codes, rng, plain=True)
        pooled, tokens = encode(encoders, [sentence.text for sentence in sentences])
        empty_pooled, empty_tokens = encode(encoders, [""] * n)
        self._prompts = Prompts(pooled=pooled.to(device), tokens=tokens.to(device))
        self._empty = Prompts(pooled=empty_pooled.to(device), tokens=empty_tokens.to(device))
        self._noise = torch.randn(n, canvas.tokens, CHANNELS, generator=generator).to(device)
        self._vae = AutoencoderKL.from_pretrained(run / "vae")
        self._vae.to(device)  # pyright: ignore[reportArgumentType]

    def images(self, transformer: FluxTransformer2DModel, view: View, *, steps: int = 10) -> Tensor:
        """The pictures (n, 3, h, w) in [0, 1]."""
        latents = sample(
            transformer,
            self.canvas,
            self._prompts,
            self._noise,
            steps=steps,
            guidance=view.guidance,
            negative=self._empty if view.cfg_scale > 1 else None,
            cfg_scale=view.cfg_scale,
        )
        return decode_latents(self._vae, latents, self.canvas).float().cpu()

    def __call__(
        self, transformer: FluxTransformer2DModel, view: View, *, steps: int = 10
    ) -> Shares:
        """Draw and count."""
        verdict = checker.judge(self.images(transformer, view, steps=steps), self._codes)
        two = world.has_two(self._codes)
        return Shares(
            one=_share(verdict.all[~two]),
            two=_share(verdict.all[two]),
            shape=_share(verdict.shape[~two]),
            colour=_share(verdict.colour[~two]),
            background=_share(verdict.background),
            layout=_share(verdict.layout),
        )


def _share(right: Tensor) -> float:
    return round(right.float().mean().item(), 3)
