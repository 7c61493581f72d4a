"""A request inside the scheduler: its images are on time only together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from copy import copy
from typing import NamedTuple

from pipelines.engine.scheduling.pricing import Pricing
from pipelines.engine.scheduling.work import Work

MARGIN = 1.2
"""Ticks are not packed perfectly, and requests are stepped whole: what a request still needs is
taken that much larger where it is decided whether it can be on time."""


class Row(NamedTuple):
    """What planning needs of a request; see `Group`."""

    cost: float
    depth: int
    tick_s: float
    deadline: float
    priority: int
    least_cost: float
    least_depth: int
    is_promised: bool


class Group:
    """The unfinished works of one request, with what planning needs of them kept up to date.

    `cost` is the seconds of the engine that they still need, `depth` the ticks that the longest of
    them needs at least, `tick_s` the seconds of a tick with nothing but its largest image;
    `least_cost` and `least_depth` the same if every image were cut as far as is allowed. `deadline`
    is infinite where there is none. `by_arrival` and `by_cost` are keys to sort by, priority first.
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
        "least_cost",
        "least_depth",
        "priority",
        "slot",
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
        self.cost = self.least_cost = 0.0
        self.depth = self.least_depth = 0
        self.tick_s = 0.0
        self.slot = -1
        """Its place in the scheduler's `Table`."""

    def __iter__(self) -> Iterator[Work]:
        return iter(self.works.values())

    @property
    def least_alone_s(self) -> float:
        """Seconds that it needs with an engine for itself, cut as far as is allowed."""
        return max(self.least_cost, self.least_depth * self.tick_s)

    def row(self) -> Row:
        return Row(
            self.cost,
            self.depth,
            self.tick_s,
            self.deadline,
            self.priority,
            self.least_cost,
            self.least_depth,
            self.is_promised,
        )

    def detached(self) -> Group:
        """A copy that may take on works without anybody's knowing."""
        copied = copy(self)
        copied.works = dict(self.works)
        copied.slot = -1
        return copied

    def add(self, work: Work, pricing: Pricing) -> None:
        self.works[work.id] = work
        self.is_promised = self.is_promised or work.is_promised
        self.price(pricing)

    def remove(self, work_id: str) -> None:
        del self.works[work_id]
        del self.step_s[work_id]
        self.is_promised = any(work.is_promised for work in self)
        self.refresh()

    def price(self, pricing: Pricing) -> None:
        """After a change of the works or of what they cost."""
        self.step_s = {work.id: pricing.step_s(work) for work in self}
        self.tick_s = max(pricing.surface.seconds(work.load) for work in self)
        self.refresh()

    def refresh(self) -> None:
        """After a step, or when a work is gone."""
        cost, depth, may_be_cut = 0.0, 0, False
        for work_id, work in self.works.items():
            left = work.steps_left
            cost += left * self.step_s[work_id]
            depth = max(depth, left)
            may_be_cut = may_be_cut or work.min_steps is not None
        self.cost, self.depth = cost, depth
        self.least_cost, self.least_depth = self.cost_of(0) if may_be_cut else (cost, depth)
        self.by_cost = (-self.priority, cost)

    def cost_of(self, total_steps: int) -> tuple[float, int]:
        """(cost, depth) if every image were cut to `total_steps` where that is allowed."""
        cost, depth = 0.0, 0
        for work_id, work in self.works.items():
            left = fewest(work, total_steps) - work.steps_done
            cost += left * self.step_s[work_id]
            depth = max(depth, left)
        return cost, depth


def unbegun(groups: Iterable[Group], seconds: float) -> list[Work]:
    """Works that have done no step, in the order of `groups`, as many as take up to `seconds`."""
    found: list[Work] = []
    for group in groups:
        for work in reversed(list(group)):
            cost = group.step_s[work.id] * work.num_steps
            if work.steps_done == 0 and cost <= seconds:
                found.append(work)
                seconds -= cost
    return found


def fewest(work: Work, total_steps: int) -> int:
    """Total steps of `work` when it is cut towards `total_steps`: it is never made longer, never
    cut below its own minimum, and at least one step is left to land on the image. One that is kept
    is cut as far as can be."""
    if work.is_kept:
        return work.least_steps
    if work.min_steps is None:
        return work.num_steps
    least = max(total_steps, work.min_steps, work.steps_done + 1)
    return min(work.num_steps, least)
