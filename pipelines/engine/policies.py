"""In which order requests get their steps; each policy is a function from requests to an order.

    fifo   by arrival
    srpt   by the work that is left (shortest remaining processing time: least mean latency)
    edf    a feasible set by deadline, short requests passing where there is slack; then those that
           will be late, the shortest first

A larger priority goes first in `fifo` and `srpt`; in `edf` it decides who is given up when not all
can be on time, and who goes first among those. Requests of flooding tenants stand behind the others
in each policy (`fairness.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Literal, NamedTuple

from pipelines.engine.feasible import feasible_set, shortest_first, slacks
from pipelines.engine.group import Group

Policy = Literal["fifo", "srpt", "edf"]


class Order(NamedTuple):
    """Who is served first, and from where on requests are not expected to be on time."""

    groups: list[Group]
    num_on_time: int

    @property
    def late(self) -> list[Group]:
        return self.groups[self.num_on_time :]


OrderBy = Callable[[Iterable[Group], float, float], Order]
"""(groups by deadline, now, seconds of a tick) -> order."""


def fifo(groups: Iterable[Group], now: float, tick_s: float) -> Order:
    """First in, first out."""
    del now, tick_s
    order = sorted(groups, key=_by_arrival)
    return Order(order, len(order))


def srpt(groups: Iterable[Group], now: float, tick_s: float) -> Order:
    """Shortest remaining processing time. All count as late: the oldest is kept from starving."""
    del now, tick_s
    return Order(sorted(groups, key=_by_cost), 0)


def edf(groups: Iterable[Group], now: float, tick_s: float) -> Order:
    """Feasible-set earliest deadline first."""
    on_time, late = feasible_set(groups, now, tick_s=tick_s)
    first = shortest_first(on_time, slacks(on_time, now, tick_s=tick_s))
    return Order([*first, *sorted(late, key=_by_cost)], len(first))


_by_arrival: Callable[[Group], tuple[int, float]] = attrgetter("by_arrival")
_by_cost: Callable[[Group], tuple[int, float]] = attrgetter("by_cost")


POLICIES: Mapping[Policy, OrderBy] = {"fifo": fifo, "srpt": srpt, "edf": edf}
