"""How much a stage has to do, in seconds of one replica: what its scaling goes by.

All stages speak of it in one unit, so that one policy scales them all, and so that the ratio of
their pools can be told. What comes per second is the growth of `queued_s + busy_s`: it needs no
guess at the cost of what is asked for, and work that is cancelled or goes elsewhere does not count.
"""

from __future__ import annotations

from typing import NamedTuple

_NEWEST = 0.1
"""Weight of the newest batch in the mean time of an item."""


class Demand(NamedTuple):
    """`queued_s` seconds are still to do, running ones included; so far `done` took `busy_s`."""

    queued_s: float
    busy_s: float
    done: int


class Meter:
    """Measures the demand of a stage that works off items, on `lanes` at once. For one thread."""

    def __init__(self, *, lanes: int = 1) -> None:
        self._lanes = lanes
        self._pending = 0
        self._busy_s = 0.0
        self._done = 0
        self._item_s = 0.0

    def came(self) -> None:
        """An item came."""
        self._pending += 1

    def left(self) -> None:
        """An item went, done or not."""
        self._pending -= 1

    def ran(self, items: int, seconds: float) -> None:
        """One lane was busy for `seconds` with `items` together."""
        seconds /= self._lanes
        newest = seconds / items
        self._item_s += (_NEWEST if self._done else 1.0) * (newest - self._item_s)
        self._busy_s += seconds
        self._done += items

    @property
    def demand(self) -> Demand:
        """As of now. Items count as the mean of those before them; before the first, as nothing."""
        return Demand(self._pending * self._item_s, self._busy_s, self._done)
