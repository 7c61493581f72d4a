"""A job inside the engine, from its submission to its future's end."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines.contracts import (
    Checkpoint,
    Conditioning,
    EncodedPicture,
    LatentJob,
    Latents,
    StepEvent,
)
from pipelines.cuts import Cut
from pipelines.engine.journal import Journal, TickRecord
from pipelines.engine.scheduling.work import Tick, Work
from pipelines.engine.stepper import Stepper
from pipelines.errors import SluiceError, StageFailed
from pipelines.previews.preview import Preview
from pipelines.tracing.spans import Spans

logger = logging.getLogger(__name__)

OnStep = Callable[[StepEvent], None]
OnCheckpoint = Callable[[Checkpoint], None]
OnPreview = Callable[[Preview], None]


class HandedOver(Exception):
    """The engine gave its works away: they go on elsewhere, from their last checkpoint."""


def shutting_down() -> StageFailed:
    """What is raised for all that an engine can no longer do, as it has ended."""
    return StageFailed("the denoiser is shutting down", stage="Denoiser")


@dataclass(slots=True, kw_only=True)
class Entry:
    """What the engine keeps of one job. `trajectory` is None until it begins, and while parked."""

    job: LatentJob
    positive: Conditioning
    negative: Conditioning | None
    on_step: OnStep | None
    on_checkpoint: OnCheckpoint | None
    future: Future[Latents]
    submitted: float
    pictures: tuple[EncodedPicture, ...] = ()
    start: Checkpoint | None = None
    """Where to go on from, when it begins or is taken up again."""
    began: float | None = None
    trajectory: Any = None
    tick_every: int = 1
    on_preview: OnPreview | None = None
    is_shown: bool = False
    """Whether anybody wants its previews now, and when the last one was made."""
    shown_at: float = -math.inf
    device_seconds: float = field(init=False)
    """Its share of the ticks that stepped it, those before `start` among them."""
    work: Work = field(init=False)
    """As the scheduler sees it."""
    journal: Journal | None = field(init=False, default=None)
    """Kept if the job has a trace, with every `tick_every`-th tick."""

    def __post_init__(self) -> None:
        self.device_seconds = 0.0 if self.start is None else self.start.device_seconds
        if self.job.trace:
            self.journal = Journal(time.time_ns(), trace=self.job.trace, tick_every=self.tick_every)

    @property
    def id(self) -> str:
        return self.job.work_id

    def begin(self, stage: Stepper[Any], cut: Cut | None = None) -> None:
        """Have a trajectory, from noise or from `start`, with its schedule shortened by `cut`."""
        if self.trajectory is None:
            if self.began is None:
                self.began = time.monotonic()
            self.trajectory = stage.admit(
                self.job, self.positive, self.negative, self.start, self.pictures
            )
        if cut is not None:
            stage.cut(self.trajectory, cut.num_steps)

    def park(self, stage: Stepper[Any]) -> None:
        """Keep no more of a trajectory than what it needs to go on."""
        if self.trajectory is not None:
            self.start = stage.checkpoint(self.trajectory)
            self.trajectory = None

    def hand_over(self, stage: Stepper[Any]) -> None:
        """Park, and tell who listens where it stands.

        A broken device gives no state back: it then goes on from its last checkpoint.
        """
        try:
            self.park(stage)
            if self.on_checkpoint is not None and self.began is not None and self.start:
                self.on_checkpoint(self._completed(self.start))
        except SluiceError:  # of this image, wherever it is drawn
            raise
        except Exception:  # whatever a device raises
            logger.exception("the state of %s is lost", self.id)

    def report(self, stage: Stepper[Any], *, checkpoint_every: int, is_finished: bool) -> None:
        """Tell who listens of a step that was done."""
        step, num_steps = self.trajectory.step, self.trajectory.num_steps
        if self.on_step is not None:
            self.on_step(StepEvent(work_id=self.id, step=step, num_steps=num_steps))
        if self.on_checkpoint and not is_finished and step % checkpoint_every == 0:
            self.on_checkpoint(self._completed(stage.checkpoint(self.trajectory)))

    def _completed(self, checkpoint: Checkpoint) -> Checkpoint:
        """With what the engine knows beside the stage."""
        checkpoint = replace(checkpoint, device_seconds=self.device_seconds)
        if self.journal is None:
            return checkpoint
        self.journal.checkpointed(step=checkpoint.step, at_ns=time.time_ns())
        return replace(checkpoint, spans=self.journal.spans(with_ticks=False))

    def timings(self) -> Mapping[str, float]:
        """The encoder's timings and our own: the wait for the first tick, and the time since."""
        began = self.submitted if self.began is None else self.began
        return {
            **self.positive.timings,
            "denoise_wait": began - self.submitted,
            "denoise": time.monotonic() - began,
        }

    def spans(self) -> Spans:
        """The encoder's spans and our own."""
        if self.journal is None:
            return ()
        negative = () if self.negative is None else self.negative.spans
        encoded = (span for picture in self.pictures for span in picture.spans)
        return (*self.positive.spans, *negative, *encoded, *self.journal.spans())


def charge(entries: Sequence[Entry], seconds: float) -> None:
    """Share the seconds of a tick out among those that it stepped, by their tokens."""
    tokens = sum(entry.work.tokens for entry in entries)
    for entry in entries:
        entry.device_seconds += seconds * entry.work.tokens / tokens


def note(entries: Sequence[Entry], tick: Tick, *, number: int, start_ns: int) -> None:
    """Write tick `number`, which ends now, into the journals of those that it stepped."""
    traces = tuple(entry.job.trace for entry in entries)
    if not any(traces):
        return
    load = tick.load
    ran = TickRecord(number, start_ns, time.time_ns(), load.tokens, load.segments, traces)
    for entry in entries:
        if entry.journal is not None:
            entry.journal.ticked(ran, step=entry.trajectory.step)


def work_of(entry: Entry, stage: Stepper[Any]) -> Work:
    """The scheduler's view of a job, on the clock of `time.monotonic`."""
    job, terms, start = entry.job, entry.job.terms, entry.start
    deadline = None
    if terms.deadline is not None:
        deadline = entry.submitted + (terms.deadline - time.time())
    num_steps = stage.forwards(job)
    if start is not None and start.cuts:
        num_steps = start.cuts[-1].num_steps
    return Work(
        id=job.work_id,
        group=job.group,
        tenant=terms.tenant,
        segments=stage.segments(job, entry.positive, entry.negative),
        num_steps=num_steps,
        min_steps=job.sampling.min_inference_steps,
        num_bytes=stage.trajectory_bytes(job, entry.positive, entry.negative),
        arrival=entry.submitted,
        deadline=deadline,
        priority=terms.priority,
        is_promised=(terms.refuses_late or terms.is_promised) and deadline is not None,
        can_cut=stage.can_cut(job),
        steps_done=0 if start is None else start.step,
    )
