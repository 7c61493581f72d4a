"""What the engine asks of a model; `DenoiserStage` is the real one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from pipelines.contracts import (
    Checkpoint,
    Conditioning,
    EncodedPicture,
    LatentJob,
    Latents,
)

Trajectory = TypeVar("Trajectory")


class Stepper(Protocol[Trajectory]):
    """Moves trajectories; each step is one forward."""

    def segments(
        self, job: LatentJob, positive: Conditioning, negative: Conditioning | None
    ) -> tuple[int, ...]:
        """Tokens of each segment of one step: two segments with true guidance, else one."""
        ...

    def forwards(self, job: LatentJob) -> int:
        """How many steps a job takes, unless its schedule is cut on the way."""
        ...

    def trajectory_bytes(
        self, job: LatentJob, positive: Conditioning, negative: Conditioning | None
    ) -> int:
        """Device memory of an admitted trajectory, in bytes."""
        ...

    def admit(
        self,
        job: LatentJob,
        positive: Conditioning,
        negative: Conditioning | None,
        start: Checkpoint | None = None,
        pictures: Sequence[EncodedPicture] = (),
    ) -> Trajectory:
        """A trajectory from its noise and pictures, or from where `start` left it."""
        ...

    def can_cut(self, job: LatentJob) -> bool:
        """Whether the job's schedule can be cut on the way."""
        ...

    def cut(self, trajectory: Trajectory, num_steps: int) -> None:
        """Shorten the rest of the schedule, to `num_steps` in all."""
        ...

    def tick(self, trajectories: Sequence[Trajectory]) -> None:
        """Advance each by one step: all of them, or none. Returns when it is done."""
        ...

    def checkpoint(self, trajectory: Trajectory) -> Checkpoint:
        """Its state on the host. Raises DegenerateImage if it is not finite."""
        ...

    def finish(self, trajectory: Trajectory) -> Latents:
        """The result of a finished one. Raises DegenerateImage if it is not finite."""
        ...
