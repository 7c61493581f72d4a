"""Which requests can be on time: a feasible set, earliest deadline first.

Moore's algorithm (Moore 1968, with Hodgson's rule): take requests by deadline; whenever one would
be late, give up the costliest of those taken so far. On one machine that leaves the fewest late.
Here the lowest priority is given up first, and nobody as long as requests that may run with fewer
steps can be shortened instead. The engine works on a few requests at once, which changes two
things: a request needs at least one tick for each of its steps, however little it costs, and what
it costs is its share of packed ticks (`Pricing.step_s`).

Requests are indices here, in the order of their deadlines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple

import numpy as np

from pipelines.engine.group import LEAST_PROMISED, MARGIN, Group, fewest
from pipelines.engine.table import Columns, Vector

_MAX_PASSING = 16
"""Requests that may pass others in one plan: more do not fit into a tick."""


class Feasible(NamedTuple):
    """Indices of the requests that can be on time, by deadline, and of the `late` ones.

    `cost` and `slack` belong to those on time: seconds of the engine that each needs, and seconds
    by which it could begin later and keep its margin, served in this order. `num_steps` are the
    total steps that some of them must be cut to. `promised_slack_s` is the least slack of those
    that were promised their deadline, their margin included.
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
    longest_s = np.maximum(columns.tick_s, tick_s)
    # Ticks are no fuller than promises can bear (`filling.py`).
    is_promised = columns.margin == 1.0
    ticks_s = np.where(is_promised, columns.tick_s, longest_s)
    room = (columns.deadline - now) / columns.margin
    cost = columns.cost.copy()
    num_steps: dict[int, int] = {}
    is_late = np.maximum(cost, columns.depth * ticks_s) > room
    can_be_cut = np.maximum(columns.least_cost, columns.least_depth * ticks_s) <= room
    for index in np.flatnonzero(is_late & can_be_cut).tolist():
        seconds = float(room[index])
        steps = most_steps(groups[index], seconds, int(seconds / ticks_s[index]))
        num_steps[index], cost[index] = steps, groups[index].cost_of(steps)[0]
        is_late[index] = False
    taken = np.flatnonzero(~is_late)
    with_margin = (columns.deadline - now) / MARGIN
    over = np.cumsum(cost[taken]) > with_margin[taken]
    if over.any():
        choice = _Choice(groups, columns, cost, num_steps)
        first = int(over.argmax())
        choice.take_all(taken[:first].tolist())
        rest = taken[first:]
        rooms = zip(rest.tolist(), with_margin[rest].tolist(), room[rest].tolist(), strict=True)
        for index, seconds, promised_seconds in rooms:
            choice.take(index, seconds, promised_seconds)
        is_late[choice.given_up] = True
        taken = np.flatnonzero(~is_late)
        cost = np.array(choice.cost)
    depth = columns.depth.copy()
    for index, steps in num_steps.items():
        depth[index] = groups[index].cost_of(steps)[1]
    total = np.cumsum(cost[taken])
    left = columns.deadline[taken] - now
    spare = left - np.maximum(total, (depth * ticks_s)[taken])
    return Feasible(
        taken.tolist(),
        np.flatnonzero(is_late).tolist(),
        cost[taken],
        left / MARGIN - np.maximum(total, (depth * longest_s)[taken]),
        num_steps,
        float(spare.min(where=is_promised[taken], initial=np.inf)),
    )


class _Choice:
    """Moore's algorithm, from the first request that would be late.

    `cost` are the seconds of all requests as they are planned.
    """

    def __init__(
        self, groups: Sequence[Group], columns: Columns, cost: Vector, num_steps: dict[int, int]
    ) -> None:
        self.cost: list[float] = cost.tolist()
        self.given_up: list[int] = []
        self._groups = groups
        self._standing: list[float] = columns.standing.tolist()
        self._least: list[float] = columns.least_cost.tolist()
        self._num_steps = num_steps
        self._total = 0.0
        self._by_price: list[tuple[float, float, int]] = []
        """(standing, -cost, -index): who is given up first."""
        self._spares: list[tuple[float, int]] = []
        """(-seconds, index): who can be shortened most."""
        self._spare_s = 0.0

    def take_all(self, indices: Sequence[int]) -> None:
        """Take requests that are all on time."""
        self._by_price = [(self._standing[i], -self.cost[i], -i) for i in indices]
        heapify(self._by_price)
        for index in indices:
            self._add_spare(index)
        self._total = sum(self.cost[i] for i in indices)

    def take(self, index: int, room: float, promised_room: float) -> None:
        """Take one more, due in `room` seconds; shorten or give up what makes it late.

        The promised are given up only where `promised_room` seconds, their margin used up, are too
        few.
        """
        cost = self.cost[index]
        self._total += cost
        heappush(self._by_price, (self._standing[index], -cost, -index))
        self._add_spare(index)
        while self._total > room and self._by_price:
            if self._spares and self._spare_s >= self._total - room:
                self._shorten(room)
            elif self._by_price[0][0] < LEAST_PROMISED or self._total > promised_room:
                self._give_up()
            else:
                return

    def _add_spare(self, index: int) -> None:
        spare = self.cost[index] - self._least[index]
        if spare > 0:
            heappush(self._spares, (-spare, index))
            self._spare_s += spare

    def _shorten(self, room: float) -> None:
        """Cut the request that can be cut most, as far as is needed."""
        spare, index = heappop(self._spares)
        before = self.cost[index]
        if spare != self._least[index] - before:
            return  # of a request that was given up
        self._spare_s += spare
        group = self._groups[index]
        steps = most_steps(group, room - (self._total - before), group.depth)
        after = group.cost_of(steps)[0]
        self._num_steps[index], self.cost[index] = steps, after
        self._total += after - before
        heappush(self._by_price, (self._standing[index], -after, -index))
        if after > self._least[index] and after < before:
            self._add_spare(index)

    def _give_up(self) -> None:
        _, cost, index = heappop(self._by_price)
        index = -index
        if -cost != self.cost[index]:
            return  # of a request that was shortened since
        spare = self.cost[index] - self._least[index]
        if spare > 0:
            self._spare_s -= spare
        self._total += cost
        self.cost[index] = self._least[index] = 0.0
        self._num_steps.pop(index, None)
        self.given_up.append(index)


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
