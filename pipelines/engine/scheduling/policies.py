"""In which order requests get their steps; each policy is a function from requests to an order.

    fifo   by arrival
    srpt   by the work that is left (shortest remaining processing time: least mean latency)
    edf    a feasible set by deadline, short requests passing where there is slack; then those that
           will be late, the shortest first

A larger priority goes first in `fifo` and `srpt`; in `edf` it decides who is given up when not all
can be on time, and who goes first among those. Requests of flooding tenants stand behind the others
in each policy (`fairness.py`), and a part of the engine goes by age (`ageing.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from operator import attrgetter
from typing import Literal, NamedTuple

from pipelines.engine.scheduling.feasible import feasible_set, shortest_first
from pipelines.engine.scheduling.group import Group
from pipelines.engine.scheduling.table import Table

Policy = Literal["fifo", "srpt", "edf"]


class Order(NamedTuple):
    """`groups` as they are served. Of them, `unprotected` are those that no deadline will bring to
    the front; `num_steps`, by a group's id, are the total steps that it must be cut to. All
    promises are kept even if everybody waits for `promised_slack_s` first."""

    groups: list[Group]
    unprotected: list[Group]
    num_steps: Mapping[str, int]
    promised_slack_s: float = math.inf

    def seconds_until(self, wanted: Group, tick_s: float) -> float:
        """How long it takes until `wanted` is done, in ticks of `tick_s`."""
        total = 0.0
        for group in self.groups:
            total += group.cost
            if group is wanted:
                break
        return max(total, wanted.depth * max(tick_s, wanted.tick_s))


OrderBy = Callable[[Sequence[Group], Table, float, float], Order]
"""(groups by deadline, their table, now, seconds of a tick) -> order."""


def fifo(groups: Sequence[Group], table: Table, now: float, tick_s: float) -> Order:
    """First in, first out."""
    del table, now, tick_s
    order = sorted(groups, key=_by_arrival)
    return Order(order, order, {})


def srpt(groups: Sequence[Group], table: Table, now: float, tick_s: float) -> Order:
    """Shortest remaining processing time."""
    del table, now, tick_s
    order = sorted(groups, key=_by_cost)
    return Order(order, order, {})


def edf(groups: Sequence[Group], table: Table, now: float, tick_s: float) -> Order:
    """Feasible-set earliest deadline first."""
    feasible = feasible_set(groups, table.columns(groups), now, tick_s=tick_s)
    served = shortest_first(feasible.cost, feasible.slack)
    first = [groups[feasible.on_time[position]] for position in served]
    late = [groups[index] for index in feasible.late]
    slack_s = feasible.promised_slack_s
    broken: list[Group] = []
    for group in takewhile(_is_promised, late):
        # A promise that is not kept is not kept by as little as can be.
        if group.cost <= slack_s:
            broken.append(group)
            slack_s -= group.cost
    rest = [group for group in late if group not in broken] if broken else late
    # Given by deadline, those without one are the last.
    has_timeless = bool(groups) and groups[-1].deadline == math.inf
    timeless = [group for group in first if group.deadline == math.inf] if has_timeless else []
    return Order(
        broken + first + rest,
        rest + timeless,
        {groups[index].id: steps for index, steps in feasible.num_steps.items()},
        slack_s,
    )


_is_promised: Callable[[Group], bool] = attrgetter("is_promised")
_by_arrival: Callable[[Group], tuple[int, float]] = attrgetter("by_arrival")
_by_cost: Callable[[Group], tuple[int, float]] = attrgetter("by_cost")


def ordered(
    policy: Policy,
    front: Sequence[Group],
    behind: Sequence[Group],
    table: Table,
    now: float,
    tick_s: float,
) -> Order:
    """Those in `front` in the policy's order, and then those `behind` them in it."""
    order_by = POLICIES[policy]
    first = order_by(front, table, now, tick_s)
    if not behind:
        return first
    begins = now + sum(group.cost for group in front)
    second = order_by(behind, table, begins, tick_s)
    return Order(
        first.groups + second.groups,
        first.unprotected + second.groups,
        {**first.num_steps, **second.num_steps},
        first.promised_slack_s,
    )


POLICIES: Mapping[Policy, OrderBy] = {"fifo": fifo, "srpt": srpt, "edf": edf}
