"""Which requests can be on time: a feasible set, earliest deadline first.

Moore's algorithm (Moore 1968, with Hodgson's rule): take requests by deadline; whenever one would
be late, give up the costliest of those taken so far. On one machine that leaves the fewest late.
Here the lowest priority is given up first, and a request that may run with fewer steps is shortened
before it is given up. The engine works on a few requests at once, which changes two things: a
request needs at least one tick for each of its steps, however little it costs, and what it costs is
its share of packed ticks (`CostSurface.share`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from heapq import heapify, heappop, heappush, nsmallest
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from pipelines.engine.group import Group

MARGIN = 1.2
"""Ticks are not packed perfectly, and requests are stepped whole: costs are taken that much larger
where a promise depends on them."""

_MAX_PASSING = 16
"""Requests that may pass others in one plan: more do not fit into a tick."""


_cost: Callable[[Group], float] = attrgetter("cost")


class Feasible(NamedTuple):
    """Requests by what can be expected of them: `on_time` by deadline, `late` in no order."""

    on_time: list[Group]
    late: list[Group]


def feasible_set(groups: Iterable[Group], now: float, *, tick_s: float) -> Feasible:
    """Divide `groups`, given by deadline; `tick_s` is the length of a tick while they run."""
    taken: list[Group] = []
    late: list[Group] = []
    heap: list[tuple[int, float, float, str, Group]] | None = None
    total = 0.0
    for group in groups:
        group.planned_steps = None
        cost = group.cost
        room = (group.deadline - now) / MARGIN
        # No call of max(): this loop is most of what a plan costs.
        is_too_deep = group.depth * (tick_s if tick_s > group.tick_s else group.tick_s) > room
        is_late = is_too_deep or total + cost > room
        if is_late and _shorten(group, total, room, tick_s):
            cost, is_late = _planned_cost(group), False
        elif is_too_deep:
            late.append(group)  # not even alone
            continue
        taken.append(group)
        total += cost
        if heap is not None:
            heappush(heap, _price_of_giving_up(group, cost))
        if is_late:
            if heap is None:
                heap = [_price_of_giving_up(each, _planned_cost(each)) for each in taken]
                heapify(heap)
            victim = heappop(heap)
            total += victim[1]
            late.append(victim[-1])
    if heap is not None:
        given_up = set(late)
        taken = [group for group in taken if group not in given_up]
    return Feasible(taken, late)


def _price_of_giving_up(group: Group, cost: float) -> tuple[int, float, float, str, Group]:
    """The lowest priority first, then the costliest, then the last to come."""
    return group.priority, -cost, -group.arrival, group.id, group


def _planned_cost(group: Group) -> float:
    return group.cost if group.planned_steps is None else group.cost_of(group.planned_steps)[0]


def _shorten(group: Group, before: float, room: float, tick_s: float) -> bool:
    """Plan the most steps with which `group` is on time behind `before` seconds of work."""
    least = group.min_steps
    if least is None:
        return False
    tick_s = max(tick_s, group.tick_s)

    def is_late(total_steps: int) -> bool:
        cost, depth = group.cost_of(total_steps)
        return before + cost > room or depth * tick_s > room

    choices = range(least, max(work.num_steps for work in group))
    found = bisect_left(choices, True, key=is_late) - 1
    if found < 0:
        return False
    group.planned_steps = choices[found]
    return True


def slacks(on_time: Iterable[Group], now: float, *, tick_s: float) -> list[float]:
    """Seconds by which each request could begin later and be on time, served in this order."""
    total = 0.0
    result: list[float] = []
    for group in on_time:
        total += group.cost if group.planned_steps is None else _planned_cost(group)
        least = group.depth * (tick_s if tick_s > group.tick_s else group.tick_s)
        needed = total if total > least else least
        result.append((group.deadline - now) / MARGIN - needed)
    return result


def shortest_first(on_time: Sequence[Group], slack: Sequence[float]) -> list[Group]:
    """Let short requests pass those with earlier deadlines that have the slack to wait for them.

    Deadlines stay kept, and the mean latency falls: half-way to shortest-remaining-time-first.
    """
    left = np.array(slack)
    position = {group: index for index, group in enumerate(on_time)}
    passing: list[Group] = []
    for group in nsmallest(_MAX_PASSING, on_time, key=_cost):
        ahead = position[group]
        if ahead == 0 or left[:ahead].min() >= group.cost:
            passing.append(group)
            left[:ahead] -= group.cost
    passed = set(passing)
    return passing + [group for group in on_time if group not in passed]


def earliest_finish(
    newcomer: Group, on_time: Sequence[Group], now: float, *, tick_s: float
) -> float:
    """The earliest time by which `newcomer` can be done with all of `on_time` staying so.

    It goes in front of every request that has the slack to wait for it.
    """
    slack = slacks(on_time, now, tick_s=tick_s)
    position = len(on_time)
    while position > 0 and slack[position - 1] >= newcomer.cost:
        position -= 1
    before = sum(_planned_cost(group) for group in on_time[:position])
    alone = newcomer.depth * max(tick_s, newcomer.tick_s)
    return now + MARGIN * max(before + newcomer.cost, alone)
