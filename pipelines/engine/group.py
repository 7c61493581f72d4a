"""A request inside the scheduler: its images are on time only together."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pipelines.engine.cost import CostSurface
from pipelines.engine.work import Work


class Group:
    """The unfinished works of one request, with what planning needs of them kept up to date.

    `cost` is the seconds of the engine that they still need, `depth` the ticks that the longest of
    them needs at least, `deadline` is infinite where there is none. `by_arrival` and `by_cost` are
    keys to sort by, priority first.
    """

    __slots__ = (
        "arrival",
        "by_arrival",
        "by_cost",
        "cost",
        "deadline",
        "depth",
        "id",
        "is_promised",
        "planned_steps",
        "priority",
        "step_s",
        "tenant",
        "tick_s",
        "works",
    )

    def __init__(self, first: Work) -> None:
        self.id = first.group
        self.tenant = first.tenant
        self.arrival = first.arrival
        self.deadline = math.inf if first.deadline is None else first.deadline
        self.priority = first.priority
        self.is_promised = False
        self.works: dict[str, Work] = {}
        self.step_s: dict[str, float] = {}
        self.by_arrival = (-first.priority, first.arrival)
        self.by_cost = (-first.priority, 0.0)
        self.cost = 0.0
        self.depth = 0
        self.tick_s = 0.0
        """Seconds of a tick with nothing but its largest image."""
        self.planned_steps: int | None = None
        """Steps that each image would have to be cut to for the deadline; None: all of them."""

    def __iter__(self) -> Iterator[Work]:
        return iter(self.works.values())

    def add(self, work: Work, surface: CostSurface) -> None:
        self.works[work.id] = work
        self.step_s[work.id] = surface.share(work.load)
        self.tick_s = max(self.tick_s, surface.seconds(work.load))
        self.is_promised = self.is_promised or work.is_promised
        self.refresh()

    def remove(self, work_id: str) -> None:
        del self.works[work_id]
        del self.step_s[work_id]
        self.refresh()

    def price(self, surface: CostSurface) -> None:
        """Take a new cost surface over."""
        self.step_s = {work.id: surface.share(work.load) for work in self}
        self.tick_s = max(surface.seconds(work.load) for work in self)
        self.refresh()

    def refresh(self) -> None:
        """After a step, or a change of the works."""
        cost, depth = 0.0, 0
        for work_id, work in self.works.items():
            left = work.num_steps - work.steps_done
            cost += left * self.step_s[work_id]
            depth = max(depth, left)
        self.cost, self.depth = cost, depth
        self.by_cost = (-self.priority, cost)

    def cost_of(self, total_steps: int) -> tuple[float, int]:
        """(cost, depth) if every image were cut to `total_steps` where that is allowed."""
        cost, depth = 0.0, 0
        for work in self:
            left = fewest(work, total_steps) - work.steps_done
            cost += left * self.step_s[work.id]
            depth = max(depth, left)
        return cost, depth

    @property
    def min_steps(self) -> int | None:
        """The fewest steps that an image may be cut to; None where that would save nothing."""
        spare = [
            work.min_steps
            for work in self
            if work.min_steps is not None and fewest(work, work.min_steps) < work.num_steps
        ]
        return min(spare) if spare else None


def fewest(work: Work, total_steps: int) -> int:
    """Total steps of `work` when it is cut towards `total_steps`: it is never made longer, never
    cut below its own minimum, and at least one step is left to land on the image."""
    if work.min_steps is None:
        return work.num_steps
    least = max(total_steps, work.min_steps, work.steps_done + 1)
    return min(work.num_steps, least)
