"""What an engine says of itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from pipelines.batching.demand import Demand
from pipelines.contracts import SamplingParams
from pipelines.engine.costs.surface import CostSurface, Load
from pipelines.engine.entry import Entry
from pipelines.engine.scheduling.policies import Policy
from pipelines.engine.scheduling.scheduler import Scheduler
from pipelines.errors import StageFailed
from pipelines.skipping import forwards_of

_STALLED_S = 60.0
_STALLED_TIMES = 20.0
"""A turn of the loop is stuck after both: so long, and so many times as long as its tick should
take. What is compiled at first use, or a busy machine, takes a tick's time many times over."""


class RanTick(NamedTuple):
    """A tick that ran: its seconds, and tenant and load of each work that it stepped."""

    seconds: float
    works: tuple[tuple[str, Load], ...]


OnTick = Callable[[RanTick], None]


class EngineStats(NamedTuple):
    """A glance at the engine.

    `works` wait or run, and need `queued_s` seconds of it; so far it ran `ticks`, in which `steps`
    forwards of images were taken and `preempted` times an image had to pause that had begun. It
    was busy for `busy_s`, has `finished` images and dropped those `cancelled`. `saved_steps` are
    the forwards that were asked for and not run, by reason: "cancelled", "cut" to keep a deadline,
    "kept" as the image was good enough, "skipped" by plan. `policy` and the surface `cost` are what
    it plans by.
    """

    works: int
    queued_s: float
    ticks: int
    steps: int
    preempted: int
    busy_s: float
    finished: int
    cancelled: int
    saved_steps: Mapping[str, int]
    policy: Policy
    cost: CostSurface

    @property
    def demand(self) -> Demand:
        """As all stages tell it."""
        return Demand(self.queued_s, self.busy_s, self.finished)


@dataclass(slots=True)
class Counters:
    """What an engine counts of its own; each tick goes to `on_tick` as well.

    That is called by the engine's thread, and must neither block nor raise.
    """

    on_tick: OnTick | None = None
    ticks: int = 0
    steps: int = 0
    preempted: int = 0
    busy_s: float = 0.0
    finished: int = 0
    cancelled: int = 0
    cancelled_steps: int = 0
    cut_steps: int = 0
    kept_steps: int = 0
    skipped_steps: int = 0
    _turn: tuple[float, float] | None = None
    """When the loop's running turn began, and the seconds that its tick should take."""

    @contextmanager
    def turn(self, expected_s: float) -> Generator[None]:
        """Around a turn of the loop that has a tick of `expected_s`."""
        began = time.monotonic()
        self._turn = (began, expected_s)
        try:
            yield
        finally:
            self._turn = None
            self.busy_s += time.monotonic() - began

    @property
    def stalled_s(self) -> float | None:
        """How long a turn has been running that is stuck; None without one. For any thread."""
        turn = self._turn
        if turn is None:
            return None
        running_s = time.monotonic() - turn[0]
        return running_s if running_s > max(_STALLED_S, _STALLED_TIMES * turn[1]) else None

    def check_health(self, *, is_running: bool) -> None:
        """Raises StageFailed when the loop has ended though it should run, or is stuck."""
        if not is_running:
            raise StageFailed("the engine's thread is not running", stage="Denoiser")
        if (stalled_s := self.stalled_s) is not None:
            raise StageFailed(f"a tick has been running for {stalled_s:.0f} s", stage="Denoiser")

    def count_tick(self, stepped: Sequence[Entry], seconds: float) -> None:
        """A tick that took `seconds`, and the works that did a step in it."""
        self.ticks += 1
        self.steps += len(stepped)
        if self.on_tick is not None:
            works = tuple((entry.work.tenant, entry.work.load) for entry in stepped)
            self.on_tick(RanTick(seconds, works))

    def count_finished(
        self, sampling: SamplingParams, steps_run: int, *, is_kept: bool = False
    ) -> None:
        """An image is done, in so many forwards."""
        self.finished += 1
        if sampling.skips_steps:
            self.skipped_steps += sampling.num_inference_steps - steps_run
        elif is_kept:
            self.kept_steps += forwards_of(sampling) - steps_run
        else:
            self.cut_steps += forwards_of(sampling) - steps_run

    def count_cancelled(self, entry: Entry | None) -> None:
        """This one was dropped, unless it had ended."""
        if entry is not None:
            self.cancelled += 1
            self.cancelled_steps += entry.work.steps_left

    def count_preempted(self, stepped: Sequence[Entry], chosen: Iterable[str]) -> None:
        """Those of the last tick that are not done, and not in the next."""
        ids = set(chosen)
        self.preempted += sum(not entry.future.done() and entry.id not in ids for entry in stepped)

    def stats(self, scheduler: Scheduler) -> EngineStats:
        """These, beside what the scheduler holds."""
        return EngineStats(
            works=len(scheduler),
            queued_s=scheduler.queued_s,
            ticks=self.ticks,
            steps=self.steps,
            preempted=self.preempted,
            busy_s=self.busy_s,
            finished=self.finished,
            cancelled=self.cancelled,
            saved_steps={
                "cancelled": self.cancelled_steps,
                "cut": self.cut_steps,
                "kept": self.kept_steps,
                "skipped": self.skipped_steps,
            },
            policy=scheduler.policy,
            cost=scheduler.cost,
        )
