"""Which requests can be on time: a feasible set, earliest deadline first.

Moore's algorithm (Moore 1968, with Hodgson's rule): take requests by deadline; whenever one would
be late, give up the costliest of those taken so far. On one machine that leaves the fewest late.
Here the lowest priority is given up first, nobody for one who is late all the same, and nobody as
long as requests that may run with fewer steps can be shortened instead. The engine works on a few
requests at once, which changes two things: a request needs at least one tick for each of its steps,
however little it costs, and what it costs is its share of packed ticks (`Pricing.step_s`).

Requests are indices here, in the order of their deadlines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from heapq import heappush, heappushpop
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.engine.scheduling.group import MARGIN, Group, fewest
from pipelines.engine.scheduling.table import Columns, Vector

_MAX_PASSING = 16
"""Requests that may pass others in one plan: more do not fit into a tick."""
_MAX_LENGTHENED = 16
"""Requests whose steps are counted out in one plan."""

Indices = NDArray[np.intp]


class Feasible(NamedTuple):
    """Indices of the requests that can be on time, by deadline, and of the `late` ones: those that
    were promised their deadline, then by priority, and then the shortest first.

    `cost` and `slack` belong to those on time: seconds of the engine that each needs, and seconds
    by which it could begin later and keep its margin, served in this order. `num_steps` are the
    total steps that the first of them must be cut to, if any. `promised_slack_s` is the least slack
    of those that were promised their deadline, without a margin.
    """

    on_time: list[int]
    late: list[int]
    cost: Vector
    slack: Vector
    num_steps: Mapping[int, int]
    promised_slack_s: float


def feasible_set(
    groups: Sequence[Group], columns: Columns, now: float, *, tick_s: float
) -> Feasible:
    """Divide `groups`, given by deadline; `tick_s` is the length of a tick while they run."""
    is_promised = columns.is_promised
    longest_s = np.maximum(columns.tick_s, tick_s)
    # Ticks are no fuller than promises can bear (`filling.py`).
    ticks_s = np.where(is_promised, columns.tick_s, longest_s)
    left = columns.deadline - now
    with_margin = left / MARGIN
    room = np.where(is_promised, left, with_margin)  # a promise may use its margin up
    is_late = np.maximum(columns.cost, columns.depth * ticks_s) > room
    is_cut = is_late & (np.maximum(columns.least_cost, columns.least_depth * ticks_s) <= room)
    is_late &= ~is_cut
    cost = np.where(is_cut, columns.least_cost, columns.cost)
    taken = np.flatnonzero(~is_late)
    over = np.cumsum(cost[taken]) > with_margin[taken]
    if over.any():
        # Whoever is due after all that would be late need not be cut for them.
        in_the_way = taken[: int(np.flatnonzero(over)[-1]) + 1]
        is_cut[in_the_way] |= (columns.least_cost < columns.cost)[in_the_way]
        cost = np.where(is_cut, columns.least_cost, columns.cost)
        over = np.cumsum(cost[taken]) > with_margin[taken]
    if over.any():
        is_late[_give_up(columns, cost, taken, with_margin, left)] = True
        taken = np.flatnonzero(~is_late)
    depth = np.where(is_cut, columns.least_depth, columns.depth)
    num_steps: dict[int, int] = {}
    slack = with_margin[taken] - np.cumsum(cost[taken])
    for index, steps in _lengthen(groups, taken, is_cut, cost, slack, room / ticks_s):
        num_steps[index] = steps
        cost[index], depth[index] = groups[index].cost_of(steps)
    late = np.flatnonzero(is_late)
    total = np.cumsum(cost[taken])
    spare = left[taken] - np.maximum(total, (depth * ticks_s)[taken])
    return Feasible(
        taken.tolist(),
        late[
            np.lexsort((columns.cost[late], -columns.priority[late], ~is_promised[late]))
        ].tolist(),
        cost[taken],
        with_margin[taken] - np.maximum(total, (depth * longest_s)[taken]),
        num_steps,
        float(spare.min(where=is_promised[taken], initial=np.inf)),
    )


def _give_up(
    columns: Columns, cost: Vector, taken: Indices, rooms: Vector, promised_rooms: Vector
) -> Indices:
    """Who of `taken` is given up, so that all others are on time.

    Each is due in its `rooms` seconds; the promised are given up only where even `promised_rooms`,
    their margin used up, are too few.

    A level is those of one priority, and the promised ones of it are a level above all others. The
    highest is divided first, and each in the time that is left by those kept above it: so nobody is
    given up for one who is given up too.
    """
    cost, room, promised_room = cost[taken], rooms[taken], promised_rooms[taken]
    priority, is_promised = columns.priority[taken], columns.is_promised[taken]
    # Positions in `taken`: by level, the highest first, and each from who is given up first on.
    order = np.lexsort((cost, priority, is_promised))[::-1]
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(order))
    costs: list[float] = cost[order].tolist()
    begins = (np.diff(priority[order]) != 0) | np.diff(is_promised[order])
    bounds = [0, *(np.flatnonzero(begins) + 1).tolist(), len(order)]
    num_promised = int(is_promised.sum())
    kept_cost = np.zeros_like(cost)
    left = promised_room if num_promised else room
    given_up: list[int] = []
    for begin, end in pairwise(bounds):
        level = np.sort(order[begin:end])
        gone = _moore(ranks[level].tolist(), costs, left[level].tolist())
        given_up += gone
        if len(gone) < len(level) or end == num_promised:
            # Those kept stay on time, those of them that are due later too.
            kept_cost[level] = cost[level]
            kept_cost[order[gone]] = 0.0
            left = (promised_room if end < num_promised else room) - kept_cost.cumsum()
            left = np.minimum.accumulate(left[::-1])[::-1]
    return taken[order[given_up]]


def _moore(ranks: Sequence[int], costs: Sequence[float], rooms: Sequence[float]) -> list[int]:
    """Moore's algorithm: those given up of some requests by deadline, by their ranks.

    Whenever one would not be done in its `rooms` seconds, which never get fewer, the least rank so
    far is given up: it is the costliest, so that the rest needs no more time than before. `costs`
    are those of all ranks.
    """
    heap: list[int] = []
    given_up: list[int] = []
    total = 0.0
    for rank, room in zip(ranks, rooms, strict=True):
        if total + costs[rank] <= room:
            heappush(heap, rank)
            total += costs[rank]
        else:
            costliest = heappushpop(heap, rank)
            total += costs[rank] - costs[costliest]
            given_up.append(costliest)
    return given_up


def _lengthen(
    groups: Sequence[Group],
    taken: Indices,
    is_cut: NDArray[np.bool_],
    cost: Vector,
    slack: Vector,
    ticks: Vector,
) -> Iterator[tuple[int, int]]:
    """(index, total steps) of the first that must be cut: the most that the slack of all behind
    them allows. When the turn of the others comes, they are among the first."""
    positions = np.flatnonzero(is_cut[taken])[:_MAX_LENGTHENED].tolist()
    if not positions:
        return
    least_slack = np.minimum.accumulate(slack[::-1])[::-1]
    used = 0.0
    for position in positions:
        index = int(taken[position])
        group, before = groups[index], float(cost[index])
        seconds = before + max(0.0, float(least_slack[position]) - used)
        steps = most_steps(group, seconds, int(ticks[index]))
        used += group.cost_of(steps)[0] - before
        yield index, steps


def most_steps(group: Group, seconds: float, ticks: int) -> int:
    """The most total steps to cut the images of `group` to, so that they need no more than
    `seconds` of the engine and `ticks`; the fewest that are allowed if no number is enough."""
    images = [work for work in group if work.min_steps is not None]
    fewest_steps = min(fewest(work, 0) for work in images)

    def is_enough(total_steps: int) -> bool:
        cost, depth = group.cost_of(total_steps)
        return cost <= seconds and depth <= ticks

    # What cutting saves is nearly linear: begin at the number that it would be.
    slope = sum(group.step_s[work.id] for work in images)
    most = max(work.num_steps for work in images)
    steps = fewest_steps + max(0, int((seconds - group.least_cost) / slope))
    steps = min(steps, most, ticks + max(work.steps_done for work in images))
    while steps > fewest_steps and not is_enough(steps):
        steps -= 1
    while steps < most and is_enough(steps + 1):
        steps += 1
    return max(steps, fewest_steps)


def shortest_first(cost: Vector, slack: Vector) -> list[int]:
    """The order in which requests are served that are given by deadline, as positions: short ones
    pass those with earlier deadlines that have the slack to wait for them.

    Deadlines stay kept, and the mean latency falls: half-way to shortest-remaining-time-first.
    """
    left = slack.copy()
    passing: list[int] = []
    for position in np.argsort(cost, kind="stable")[:_MAX_PASSING].tolist():
        if position == 0 or left[:position].min() >= cost[position]:
            passing.append(position)
            left[:position] -= cost[position]
    passed = set(passing)
    return passing + [position for position in range(len(cost)) if position not in passed]


def earliest_finish(newcomer: Group, others: Feasible, now: float, *, tick_s: float) -> float:
    """The earliest time by which `newcomer` can be done, with its fewest steps, while all of
    `others` that are on time stay so: it goes in front of every one with the slack to wait."""
    position = len(others.on_time)
    while position > 0 and others.slack[position - 1] >= newcomer.least_cost:
        position -= 1
    before = float(others.cost[:position].sum())
    alone = newcomer.least_depth * max(tick_s, newcomer.tick_s)
    return now + MARGIN * max(before + newcomer.least_cost, alone)
