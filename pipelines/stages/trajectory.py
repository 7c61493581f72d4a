"""One image on its way from noise to latents, as the denoiser keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from pipelines.begin import NO_PICTURES, ActiveControl, PictureInputs
from pipelines.contracts import LatentJob
from pipelines.cuts import Cut
from pipelines.errors import DegenerateImage
from pipelines.packing.layout import RotaryTable, SegmentShape
from pipelines.sampling import Schedule, euler_step, extrapolate


class Segment(NamedTuple):
    """One conditioning of one trajectory.

    `txt` (L, d) embedded text, `pooled` (P,) what modulation sees of it, if anything, and `vec`
    (n, M) the modulation of the last n forwards of the schedule: of all, or of those after the last
    cut. `rope` are the rotary factors of its tokens, as many as `shape` says.
    """

    txt: torch.Tensor
    pooled: torch.Tensor | None
    vec: torch.Tensor
    shape: SegmentShape
    rope: RotaryTable


@dataclass(slots=True, kw_only=True, weakref_slot=True)
class Trajectory:
    """One image being denoised, after `step` forwards.

    `latents` is (S, D), and so is `velocity`, the one predicted last, kept only where the next
    step extrapolates from it. A step changes these and `step`; a cut changes `cuts`, `schedule`
    and the segments. `cuts` are those made on the way; the job's planned ones are in `schedule`.
    If it `predicts`, a step leaves the clean latents (S, D) that it sees ahead in `predicted`.
    `pictures` are what the job's pictures add to each step.
    """

    job: LatentJob
    schedule: Schedule
    segments: tuple[Segment, ...]
    latents: torch.Tensor
    step: int = 0
    cuts: tuple[Cut, ...] = ()
    velocity: torch.Tensor | None = None
    predicts: bool = False
    predicted: torch.Tensor | None = None
    pictures: PictureInputs = NO_PICTURES

    @property
    def num_steps(self) -> int:
        """Forwards in all, as the schedule is now."""
        return self.schedule.num_steps

    @property
    def image_tokens(self) -> int:
        """S, its own in each segment: without those of references."""
        return len(self.latents)

    @property
    def is_done(self) -> bool:
        return self.step >= self.num_steps

    def moved(self, velocity: torch.Tensor) -> torch.Tensor:
        """The latents after a step with `velocity`, moved on by a forecast where one is due, and
        blended with the image's outside a mask."""
        share = self.schedule.forecast(self.step)
        if share and self.velocity is not None:
            velocity = extrapolate(velocity, self.velocity, share)
        after, sigmas = self.step + 1, self.schedule.sigmas
        latents = euler_step(self.latents, velocity, sigmas[self.step : after + 1])
        if self.pictures.blend is None:
            return latents
        level = sigmas[after : after + 1] if after < self.num_steps else None
        return self.pictures.blend.over(latents, level)

    def predicted_by(self, velocity: torch.Tensor) -> torch.Tensor:
        """The clean latents that a step with `velocity` sees ahead: x - sigma v, float32."""
        sigma = self.schedule.sigmas[self.step]
        return self.latents.to(torch.float32) - sigma * velocity.to(torch.float32)

    def latents_on_cpu(self) -> torch.Tensor:
        """The latents on the CPU. Raises DegenerateImage if they are not finite."""
        latents = self.latents.cpu()
        if not bool(latents.isfinite().all()):
            raise DegenerateImage("denoising produced latents that are not finite")
        return latents


def first_modulated(cuts: tuple[Cut, ...]) -> int:
    """The first forward whose modulation a trajectory with these cuts keeps."""
    return cuts[-1].step if cuts else 0


def active_controls(trajectories: Sequence[Trajectory]) -> list[ActiveControl]:
    """The control maps that act in the next step of these, laid out in their order."""
    active: list[ActiveControl] = []
    first = 0
    for item in trajectories:
        segments = tuple(range(first, first + len(item.segments)))
        first += len(segments)
        active += [
            ActiveControl(control, item.step, item.latents, segments)
            for control in item.pictures.controls
            if control.scales[item.step]
        ]
    return active
