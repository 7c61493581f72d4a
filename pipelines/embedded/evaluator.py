"""Counts, while training goes on, how many of a fixed set of held-out prompts are drawn right."""

import random
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import Tensor

from pipelines.embedded import captions, checker, world
from pipelines.embedded.flow import CHANNELS, TOKENS, Prompts, sample
from pipelines.embedded.latents import decode_latents
from pipelines.embedded.train_text import encode, load_encoders


class View(NamedTuple):
    """A way to draw: the embedded guidance, and the scale of true classifier-free guidance."""

    guidance: float
    cfg_scale: float


class Shares(NamedTuple):
    """Shares of right pictures: all right with one and with two objects, and the attributes.

    ``shape`` and ``colour`` are those of one object, the rest is over all.
    """

    one: float
    two: float
    shape: float
    colour: float
    background: float
    layout: float


class Evaluator:
    """Draws the same n prompts from the same noise each time, half of them with two objects."""

    def __init__(self, run: Path, *, n: int, device: str, seed: int = 5) -> None:
        generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
        self._codes = world.sample_codes(n, generator, two_objects=0.5, held_out=True)
        encoders = load_encoders(run / "text")
        sentences = captions.captions(self._codes, rng, plain=True)
        pooled, tokens = encode(encoders, [sentence.text for sentence in sentences])
        empty_pooled, empty_tokens = encode(encoders, [""] * n)
        self._prompts = Prompts(pooled=pooled.to(device), tokens=tokens.to(device))
        self._empty = Prompts(pooled=empty_pooled.to(device), tokens=empty_tokens.to(device))
        self._noise = torch.randn(n, TOKENS, CHANNELS, generator=generator).to(device)
        self._vae = AutoencoderKL.from_pretrained(run / "vae").to(device)

    def images(self, transformer: FluxTransformer2DModel, view: View, *, steps: int = 10) -> Tensor:
        """The pictures (n, 3, 64, 64) in [0, 1]."""
        latents = sample(
            transformer,
            self._prompts,
            self._noise,
            steps=steps,
            guidance=view.guidance,
            negative=self._empty if view.cfg_scale > 1 else None,
            cfg_scale=view.cfg_scale,
        )
        return decode_latents(self._vae, latents).float().cpu()

    def __call__(
        self, transformer: FluxTransformer2DModel, view: View, *, steps: int = 10
    ) -> Shares:
        """Draw and count."""
        verdict = checker.judge(self.images(transformer, view, steps=steps), self._codes)
        two = self._codes[:, world.LAYOUT] != world.CENTRE
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
