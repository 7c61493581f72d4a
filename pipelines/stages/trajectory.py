"""One image on its way from noise to latents, as the denoiser keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

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

    @property
    def num_steps(self) -> int:
        """Forwards in all, as the schedule is now."""
        return self.schedule.num_steps

    @property
    def image_tokens(self) -> int:
        """S, in each segment."""
        return self.segments[0].shape.image

    @property
    def is_done(self) -> bool:
        return self.step >= self.num_steps

    def moved(self, velocity: torch.Tensor) -> torch.Tensor:
        """The latents after a step with `velocity`, moved on by a forecast where one is due."""
        share = self.schedule.forecast(self.step)
        if share and self.velocity is not None:
            velocity = extrapolate(velocity, self.velocity, share)
        return euler_step(self.latents, velocity, self.schedule.sigmas[self.step : self.step + 2])

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
