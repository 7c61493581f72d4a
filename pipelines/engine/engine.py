"""The engine: a thread whose loop is *plan, step, advance*.

It knows no Ray and no HTTP. Callers hand in jobs from any thread and get a future each; the loop
alone touches the stage, so the model needs no lock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipelines.contracts import Checkpoint, Conditioning, EncodedPicture, LatentJob, Latents
from pipelines.engine.admission import refuse_what_cannot_be, refuse_when_full
from pipelines.engine.breaker import Breaker
from pipelines.engine.costs.surface import CostModel
from pipelines.engine.entries import Entries
from pipelines.engine.entry import (
    Entry,
    HandedOver,
    OnCheckpoint,
    OnPreview,
    OnStep,
    charge,
    note,
    shutting_down,
    work_of,
)
from pipelines.engine.observe.profiling import Profiling
from pipelines.engine.observe.stats import Counters, EngineStats, OnTick
from pipelines.engine.previewing import Previewing
from pipelines.engine.scheduling.policies import Policy
from pipelines.engine.scheduling.scheduler import Scheduler
from pipelines.engine.scheduling.work import Tick
from pipelines.engine.stepper import Stepper
from pipelines.engine.stepping import step

if TYPE_CHECKING:
    from pipelines.previews.previewer import Previewer

logger = logging.getLogger(__name__)


class Engine:
    """Runs jobs on a stage, one packed tick after the other.

    `checkpoint_every` steps an image's state is handed to who listens. `cost`, if given, learns
    from every tick. `max_queued_works` bounds what is accepted at all. Of works with a `trace`,
    every `tick_every`-th tick is kept as a span; `on_tick` hears of all, see `Counters`.
    `profiling` records ticks on request; `previewer` shows images on their way.
    """

    def __init__(
        self,
        stage: Stepper[Any],
        scheduler: Scheduler,
        *,
        cost: CostModel | None = None,
        checkpoint_every: int = 5,
        max_queued_works: int = 10_000,
        tick_every: int = 1,
        on_tick: OnTick | None = None,
        previewer: Previewer | None = None,
    ) -> None:
        self._stage, self._scheduler, self._cost = stage, scheduler, cost
        self._checkpoint_every = checkpoint_every
        self._max_queued_works = max_queued_works
        self._tick_every = tick_every
        self._changed = threading.Condition()
        self.profiling = Profiling(self._changed)
        self._is_stopping = self._is_handing_over = False
        self._counters = Counters(on_tick)
        self._breaker = Breaker()
        self._previewing = Previewing(previewer)
        self._entries = Entries(scheduler, self._changed, on_failure=self._breaker.failed)
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
        if self._is_handing_over:
            self._entries.hand_over(self._stage)
        self._entries.fail_all(shutting_down)

    def hand_over(self) -> None:
        """Hand all works over after the current tick.

        Each that has begun gets a last `on_checkpoint`; then its future, as that of the others,
        raises HandedOver. So does every later `submit`.
        """
        with self._changed:
            self._is_handing_over = True
            self._changed.notify()

    def rebalance(self, keep_s: float) -> int:
        """Give works away that have not begun, those first that would be the last, as long as what
        is left takes `keep_s` seconds; their futures raise HandedOver. Returns how many."""
        with self._changed:
            surplus = self._scheduler.surplus(keep_s, time.monotonic())
            entries = self._entries.of(work.id for work in surplus)
            given = [entry for entry in entries if entry.began is None]
            for entry in given:
                self._entries.fail(entry, HandedOver())
        return len(given)

    def submit(
        self,
        job: LatentJob,
        positive: Conditioning,
        negative: Conditioning | None = None,
        *,
        pictures: Sequence[EncodedPicture] = (),
        start: Checkpoint | None = None,
        on_step: OnStep | None = None,
        on_checkpoint: OnCheckpoint | None = None,
        on_preview: OnPreview | None = None,
        is_shown: bool = False,
    ) -> Future[Latents]:
        """Queue a job with the `pictures` of its sampling, to go on from `start` if given.

        `on_step` and `on_checkpoint` are called from the engine's thread and must not block, nor
        must `on_preview`, which is called from the previewer's while the work `is_shown`. The
        future raises what went wrong with this job alone. Raises DeadlineUnreachable for a job
        that refuses to be late and would be, InvalidRequest for one that can never fit, Overloaded
        when the queue is full, HandedOver, StageFailed after `stop`, ValueError for a running id.
        """
        entry = Entry(
            job=job,
            positive=positive,
            negative=negative,
            on_step=on_step,
            on_checkpoint=on_checkpoint,
            future=Future(),
            submitted=time.monotonic(),
            pictures=tuple(pictures),
            start=start,
            tick_every=self._tick_every,
            on_preview=on_preview,
            is_shown=is_shown,
        )
        work = entry.work = work_of(entry, self._stage)
        with self._changed:
            self._check_open()
            if entry.id in self._entries:
                raise ValueError(f"work_id: {entry.id!r} is already running")
            refuse_what_cannot_be(self._scheduler, work, job, now=entry.submitted)
            self._entries.add(entry)
            self._changed.notify()
        return entry.future

    def configure(self, policy: Policy, max_works: int, checkpoint_every: int) -> None:
        """Plan by other options from the next tick on."""
        with self._changed:
            self._scheduler.configure(policy, max_works)
            self._checkpoint_every = checkpoint_every

    def keep(self, group: str) -> None:
        """Finish the images of a request as they are: each goes with its next step, from the second
        on, from where it is to the clean image. Where schedules cannot be cut they end as planned.

        Does nothing for a request that is not here (any more).
        """
        with self._changed:
            self._scheduler.keep(group)

    def show(self, group: str, is_shown: bool) -> None:
        """Whether the images of a request are shown from now on, those that are here."""
        with self._changed:
            for entry in self._entries.of_group(group):
                entry.is_shown = is_shown

    def cancel(self, work_id: str) -> bool:
        """Drop a work; it leaves at the next tick. False if it is not here (any more)."""
        with self._changed:
            entry = self._entries.cancel(work_id)
            self._counters.count_cancelled(entry)
        if entry is not None:
            entry.future.cancel()
        return entry is not None

    def stats(self) -> EngineStats:
        """Works, queued seconds and what was run, as of now."""
        with self._changed:
            return self._counters.stats(self._scheduler)

    def check_health(self) -> None:
        """Raises StageFailed when the loop has ended without being asked to, or is stuck."""
        self._counters.check_health(is_running=self._thread.is_alive() or self._is_stopping)

    def _check_open(self) -> None:
        if self._is_handing_over:
            raise HandedOver
        if self._is_stopping:
            raise shutting_down()
        refuse_when_full(len(self._entries), self._max_queued_works)

    def _run(self) -> None:
        try:
            with closing(self.profiling):
                self._loop()
        except Exception:  # the edge of the thread: it ends, and its works go on elsewhere
            logger.exception("the engine's loop failed")
            with self._changed:
                self._is_handing_over = True
                self._entries.hand_over(self._stage)

    def _loop(self) -> None:
        stepped: list[Entry] = []
        while (tick := self._plan()) is not None:
            self._counters.count_preempted(stepped, tick.work_ids)
            turn = self._counters.turn(self._scheduler.cost.seconds(tick.load))
            with self.profiling.tick(tick, self._counters), turn:
                with self.profiling.phase("prepare"):
                    entries = self._prepare(tick)
                with self.profiling.phase("step"):
                    stepped = self._step(entries, tick)
                if self._breaker.open:
                    self._breaker.pause()
                with self.profiling.phase("advance"):
                    stepped = self._advance(stepped, tick)

    def _plan(self) -> Tick | None:
        """Wait for something to do; None when asked to stop."""
        while True:
            with self._changed:
                if self._is_stopping:
                    return None
                if self._is_handing_over:
                    self._entries.hand_over(self._stage)
                with self.profiling.phase("plan"):
                    tick = self._scheduler.plan(time.monotonic())
                if tick is not None:
                    return tick
                left_s = self.profiling.left_s()
                if left_s is None or left_s > 0:
                    self._changed.wait(left_s)
                    continue
            self.profiling.end()  # others may submit while torch's profiler stops

    def _prepare(self, tick: Tick) -> list[Entry]:
        """Park, begin and cut as planned: the entries of the tick that can step."""
        with self._changed:
            parked = self._entries.of(tick.parked)
            entries = self._entries.of(tick.work_ids)
        for entry in parked:
            with self._entries.alone(entry):
                entry.park(self._stage)
        cuts = dict(tick.cuts)
        for entry in entries:
            if entry.future.cancelled():  # by its caller, without a word to the engine
                self._entries.leave(entry)
                continue
            with self._entries.alone(entry):
                entry.begin(self._stage, cuts.get(entry.id))
        return [entry for entry in entries if not entry.future.done()]

    def _step(self, entries: Sequence[Entry], tick: Tick) -> list[Entry]:
        """Step the entries; returns those that did."""
        if not entries:
            return []
        began, start_ns = time.perf_counter(), time.time_ns()
        self._previewing.choose(entries)
        stepped = step(self._stage, entries, breaker=self._breaker, alone=self._entries.alone)
        seconds = time.perf_counter() - began
        self._counters.count_tick(stepped.entries, seconds)
        charge(stepped.entries, seconds)
        self._previewing.show(stepped.entries)
        if stepped.together and len(entries) == len(tick.work_ids) and not self.profiling.is_on:
            self._learn(tick, seconds)
        note(stepped.entries, tick, number=self._counters.ticks, start_ns=start_ns)
        return stepped.entries

    def _learn(self, tick: Tick, seconds: float) -> None:
        if self._cost is not None and (surface := self._cost.learn(tick.load, seconds)):
            with self._changed:
                self._scheduler.cost = surface

    def _advance(self, stepped: Sequence[Entry], tick: Tick) -> list[Entry]:
        """Tell the scheduler and whoever listens; finish what is done. Returns the others."""
        with self._changed:
            # A work may have been cancelled meanwhile, and another come under its id.
            entries = [entry for entry in stepped if self._entries.has(entry)]
            ran = replace(tick, work_ids=tuple(entry.id for entry in entries))
            finished = {work.id for work in self._scheduler.advance(ran, time.monotonic())}
        for entry in entries:
            done = entry.id in finished
            with self._entries.alone(entry):
                entry.report(self._stage, checkpoint_every=self._checkpoint_every, is_finished=done)
                if done:
                    self._finish(entry)
        return [entry for entry in entries if entry.id not in finished]

    def _finish(self, entry: Entry) -> None:
        latents = self._stage.finish(entry.trajectory)
        entry.trajectory = None
        self._counters.count_finished(
            entry.job.sampling, latents.steps_run, is_kept=entry.work.is_kept
        )
        if self._entries.leave(entry):
            entry.future.set_result(
                replace(
                    latents,
                    device_seconds=entry.device_seconds,
                    timings=entry.timings(),
                    spans=entry.spans(),
                )
            )
