"""The engine: a thread whose loop is *plan, step, advance*.

It knows no Ray and no HTTP. Callers hand in jobs from any thread and get a future each; the loop
alone touches the stage, so the model needs no lock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, TypeVar

from pipelines.catalog import SIZE_MULTIPLE
from pipelines.contracts import LatentJob, Latents, StepEvent, TextConditioning
from pipelines.engine.scheduler import Scheduler
from pipelines.engine.work import Tick, Work
from pipelines.errors import Overloaded, StageFailed

logger = logging.getLogger(__name__)

Trajectory = TypeVar("Trajectory")
OnStep = Callable[[StepEvent], None]


class Stepper(Protocol[Trajectory]):
    """What the engine asks of a model; `DenoiserStage` is the real one."""

    def admit(
        self, job: LatentJob, positive: TextConditioning, negative: TextConditioning | None
    ) -> Trajectory: ...

    def tick(self, trajectories: Sequence[Trajectory]) -> None: ...

    def finish(self, trajectory: Trajectory) -> Latents: ...


class EngineStats(NamedTuple):
    """A glance at the engine: works waiting or running, tokens still to step, ticks run so far."""

    works: int
    queued_tokens: int
    ticks: int


@dataclass(slots=True, kw_only=True)
class _Entry:
    """A job inside the engine, from its submission to its future's end."""

    job: LatentJob
    positive: TextConditioning
    negative: TextConditioning | None
    on_step: OnStep | None
    future: Future[Latents]
    submitted: float
    admitted: float = 0.0
    trajectory: Any = None


class Engine:
    """Runs jobs on a stage, one packed tick after the other.

    `max_tokens_per_tick` and `max_works` bound a tick (see `Scheduler`); `max_queued_works` bounds
    what is accepted at all.
    """

    def __init__(
        self,
        stage: Stepper[Any],
        *,
        max_tokens_per_tick: int,
        max_works: int,
        max_queued_works: int = 10_000,
    ) -> None:
        self._stage = stage
        self._scheduler = Scheduler(max_tokens_per_tick=max_tokens_per_tick, max_works=max_works)
        self._max_queued_works = max_queued_works
        self._entries: dict[str, _Entry] = {}
        self._changed = threading.Condition()
        self._is_stopping = False
        self._ticks = 0
        self._thread = threading.Thread(target=self._run, name="sluice-engine", daemon=True)

    def start(self) -> None:
        """Start the loop. Call once."""
        self._thread.start()

    def stop(self) -> None:
        """End the loop after the current tick; unfinished works fail with StageFailed."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()
        for work_id in list(self._entries):
            self._fail(work_id, StageFailed("the denoiser is shutting down", stage="Denoiser"))

    def submit(
        self,
        job: LatentJob,
        positive: TextConditioning,
        negative: TextConditioning | None = None,
        *,
        on_step: OnStep | None = None,
    ) -> Future[Latents]:
        """Queue a job. `on_step` is called from the engine's thread and must not block.

        The future raises what went wrong with this job alone. Raises Overloaded when the queue is
        full, StageFailed after `stop`, ValueError for a `work_id` that is already running.
        """
        entry = _Entry(
            job=job,
            positive=positive,
            negative=negative,
            on_step=on_step,
            future=Future(),
            submitted=time.monotonic(),
        )
        with self._changed:
            if self._is_stopping:
                raise StageFailed("the denoiser is shutting down", stage="Denoiser")
            if len(self._entries) >= self._max_queued_works:
                raise Overloaded(
                    f"the denoiser already holds {len(self._entries)} images", retry_after_s=1.0
                )
            self._scheduler.add(_work_of(entry))
            self._entries[job.work_id] = entry
            self._changed.notify()
        return entry.future

    def cancel(self, work_id: str) -> bool:
        """Drop a work; it leaves at the next tick. False if it is not here (any more)."""
        with self._changed:
            self._scheduler.cancel(work_id)
            entry = self._entries.pop(work_id, None)
        if entry is None:
            return False
        entry.future.cancel()
        return True

    def stats(self) -> EngineStats:
        """Works, queued tokens and ticks, as of now."""
        with self._changed:
            return EngineStats(len(self._scheduler), self._scheduler.queued_tokens, self._ticks)

    def check_health(self) -> None:
        """Raises StageFailed when the loop has ended without being asked to."""
        if not self._thread.is_alive() and not self._is_stopping:
            raise StageFailed("the engine's thread is not running", stage="Denoiser")

    def _run(self) -> None:
        while (tick := self._plan()) is not None:
            entries = self._admit(tick)
            self._step(entries)
            self._advance(tick)

    def _plan(self) -> Tick | None:
        """Wait for something to do; None when asked to stop."""
        with self._changed:
            while not self._is_stopping:
                tick = self._scheduler.plan(time.monotonic())
                if tick is not None:
                    return tick
                self._changed.wait()
        return None

    def _admit(self, tick: Tick) -> list[_Entry]:
        """The entries of a tick, with a trajectory each; one that cannot start fails alone."""
        with self._changed:
            entries = [self._entries[i] for i in tick.work_ids if i in self._entries]
        for entry in entries:
            if entry.trajectory is None:
                entry.admitted = time.monotonic()
                with self._alone(entry):
                    entry.trajectory = self._stage.admit(entry.job, entry.positive, entry.negative)
        return [entry for entry in entries if entry.trajectory is not None]

    def _step(self, entries: Sequence[_Entry]) -> None:
        """Step the entries together; if that fails, one by one, so that the culprit fails alone."""
        if not entries:
            return
        self._ticks += 1
        if len(entries) == 1:
            with self._alone(entries[0]):
                self._stage.tick([entries[0].trajectory])
            return
        try:
            self._stage.tick([entry.trajectory for entry in entries])
        except Exception:  # the loop must outlive whatever a work makes the stage raise
            logger.exception("a tick of %d works failed, stepping each alone", len(entries))
            for entry in entries:
                self._step([entry])

    def _advance(self, tick: Tick) -> None:
        """Tell the scheduler and whoever listens; finish what is done."""
        with self._changed:
            finished = {work.id for work in self._scheduler.advance(tick, time.monotonic())}
            entries = [self._entries[i] for i in tick.work_ids if i in self._entries]
        for entry in entries:
            with self._alone(entry):
                self._report(entry)
                if entry.job.work_id in finished:
                    self._finish(entry)

    def _report(self, entry: _Entry) -> None:
        if entry.on_step is not None:
            entry.on_step(
                StepEvent(
                    work_id=entry.job.work_id,
                    step=entry.trajectory.step,
                    num_steps=entry.job.num_inference_steps,
                )
            )

    def _finish(self, entry: _Entry) -> None:
        latents = self._stage.finish(entry.trajectory)
        with self._changed:
            is_wanted = self._entries.pop(entry.job.work_id, None) is not None
        if is_wanted:
            entry.future.set_result(replace(latents, timings=_timings(entry)))

    @contextmanager
    def _alone(self, entry: _Entry) -> Generator[None]:
        """Whatever one work raises is its caller's news, and must not end the loop."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  the edge of the thread: the caller is told
            self._fail(entry.job.work_id, error)

    def _fail(self, work_id: str, error: Exception) -> None:
        with self._changed:
            self._scheduler.cancel(work_id)
            entry = self._entries.pop(work_id, None)
        if entry is not None:
            entry.future.set_exception(error)


def _work_of(entry: _Entry) -> Work:
    """The scheduler's view of a job."""
    job = entry.job
    image_tokens = (job.height // SIZE_MULTIPLE) * (job.width // SIZE_MULTIPLE)
    segments = 2 if entry.negative is not None and job.true_cfg_scale > 1 else 1
    return Work(
        id=job.work_id,
        group=job.group,
        tokens=segments * (image_tokens + len(entry.positive.prompt_embeds)),
        num_steps=job.num_inference_steps,
        arrival=entry.submitted,
    )


def _timings(entry: _Entry) -> Mapping[str, float]:
    """The encoder's timings and our own: the wait for the first tick, and the time since."""
    return {
        **entry.positive.timings,
        "denoise_wait": entry.admitted - entry.submitted,
        "denoise": time.monotonic() - entry.admitted,
    }
