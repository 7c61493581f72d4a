"""What a work draws from: its latents at the start, and what its pictures add to every step.

A family makes it (`FlowModel.begin`), the denoiser stage carries it. All of it follows from the
job, its prompt and its pictures, so a checkpoint leaves it out and it is made again.

Shapes:  S image tokens of the work's own      D latent channels      R tokens of references
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from pipelines.contracts import Conditioning


class Blend(NamedTuple):
    """What replaces the latents outside a mask after each step.

    `clean` (S, D) are the image's latents, `noise` (S, D) what they are noised with, `mask` (S, D)
    is 1 where to draw anew; all of the latents' dtype.
    """

    clean: torch.Tensor
    noise: torch.Tensor
    mask: torch.Tensor

    def over(self, latents: torch.Tensor, sigma: torch.Tensor | None) -> torch.Tensor:
        """`latents` (S, D) after a step that led to the level `sigma` (1,), None after the last.

        The formula and its order are `FluxInpaintPipeline`'s, in the latents' dtype.
        """
        kept = self.clean if sigma is None else noised(self.clean, self.noise, sigma)
        return (1 - self.mask) * kept + self.mask * latents


def noised(clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """sigma noise + (1 - sigma) clean, for a level (1,) that is cast to the dtype first.

    As diffusers' `FlowMatchEulerDiscreteScheduler.scale_noise`.
    """
    sigma = sigma.to(clean.dtype)
    return sigma * noise + (1.0 - sigma) * clean


class Control(NamedTuple):
    """A control map that a ControlNet follows.

    `net` is the model that does, of those that the denoiser has; `inputs` are what it made of map,
    prompt and schedule beforehand, its own affair. `scales` has a number for each forward, 0 where
    the map does not act; `tokens` are those of one forward of the net.
    """

    net: int
    inputs: Any
    scales: tuple[float, ...]
    tokens: int


class PictureInputs(NamedTuple):
    """What pictures add to a work's steps. All None for a work that draws from noise alone.

    `context` (R, D) are latents of references: more tokens of the image stream. `channels` (S, C)
    stand beside the latents in each of its own tokens.
    """

    blend: Blend | None = None
    context: torch.Tensor | None = None
    channels: torch.Tensor | None = None
    controls: tuple[Control, ...] = ()

    def rows(self, latents: torch.Tensor) -> Sequence[torch.Tensor]:
        """The image stream of a step: `latents` (S, D) with all that stands beside them."""
        if self.channels is not None:
            latents = torch.cat([latents, self.channels], dim=1)
        return [latents] if self.context is None else [latents, self.context]


NO_PICTURES = PictureInputs()


class Begin(NamedTuple):
    """A work at its start: `latents` (S, D), its prompt with what pictures say beside it, and what
    they add to each step."""

    latents: torch.Tensor
    positive: Conditioning
    inputs: PictureInputs = NO_PICTURES


class ActiveControl(NamedTuple):
    """A control map that acts in this step: on `latents` (S, D) after `step` forwards, and on the
    `segments` of the batch that are theirs."""

    control: Control
    step: int
    latents: torch.Tensor
    segments: tuple[int, ...]
