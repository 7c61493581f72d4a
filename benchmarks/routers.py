"""Which simulated replica gets an image: as the product chooses, and as Serve would."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Literal, Protocol

from deployments.routing.backlog import REPORT_EVERY_S, Backlogs, Report
from pipelines.engine.scheduling.scheduler import Scheduler
from pipelines.engine.scheduling.work import Work
from pipelines.job_shape import JobShape


class Routed(Protocol):
    """What a router knows of a replica."""

    @property
    def scheduler(self) -> Scheduler: ...

    @property
    def ongoing(self) -> int:
        """Images there that are not done."""
        ...


class TwoChoices:
    """Serve's own router."""

    def __init__(self, pool: Sequence[Routed], rng: Random) -> None:
        self._pool = pool
        self._rng = rng

    def __call__(self, work: Work) -> int:
        """Two different replicas at random, and of these the one with less under way."""
        pool = self._pool
        if len(pool) == 1:
            return 0
        first, second = self._rng.sample(range(len(pool)), 2)
        return second if pool[second].ongoing < pool[first].ongoing else first


class FinishFirst:
    """Ours, with reports that replicas give at times of their own, as in truth."""

    def __init__(self, pool: Sequence[Routed], rng: Random) -> None:
        self._pool = pool
        self._rng = rng
        self._backlogs = Backlogs()
        self._due = [rng.random() * REPORT_EVERY_S for _ in pool]
        self._reports = [self._report(index, 0.0) for index in range(len(pool))]

    def __call__(self, work: Work) -> int:
        """The replica that would finish the work first."""
        if len(self._pool) == 1:
            return 0
        now, shape = (
            work.arrival,
            JobShape(work.segments[0], len(work.segments), work.num_steps),
        )
        for index, due in enumerate(self._due):
            if due <= now:
                self._reports[index] = self._report(index, now)
                self._due[index] = now + REPORT_EVERY_S
        order = self._rng.sample(range(len(self._pool)), len(self._pool))
        index = min(
            order, key=lambda i: self._backlogs.finish_s(str(i), self._reports[i], shape, now)
        )
        share_s = self._reports[index].share_s(shape)
        self._backlogs.sent(work, str(index), share_s, now)
        return index

    def _report(self, index: int, now: float) -> Report:
        scheduler = self._pool[index].scheduler
        return Report(now, scheduler.queued_s, 0, scheduler.cost)


RouterName = Literal["finish_first", "two_choices"]
ROUTERS: Mapping[RouterName, Callable[[Sequence[Routed], Random], Callable[[Work], int]]] = {
    "finish_first": FinishFirst,
    "two_choices": TwoChoices,
}
