"""Ageing: a part of the engine goes to the oldest request, so that none starves.

Without it, a request that will be late would wait behind all that can still be on time, and a long
one behind all shorter ones, for as long as such keep coming. The oldest of those that no deadline
will bring to the front goes first in one tick of ten or so: each gets its turn in the end. It waits
while that would break a promise; new promises leave time for it.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

from pipelines.engine.scheduling.group import Group
from pipelines.engine.scheduling.policies import Order

AGEING_SHARE = 0.1
"""Of the engine's seconds; less than the margin under promises."""

_has_works: Callable[[Group], object] = attrgetter("works")
_arrival: Callable[[Group], float] = attrgetter("arrival")


class Ageing:
    """Keeps account of what the oldest were given. What is not used is not saved up."""

    def __init__(self) -> None:
        self._credit_s = 0.0

    def first(self, order: Order, tick_s: float) -> Group | None:
        """Who goes first in the next tick, of about `tick_s` seconds; None: the order decides."""
        if self._credit_s < 0 or not order.unprotected:
            return None
        oldest = min(filter(_has_works, order.unprotected), key=_arrival, default=None)
        if oldest is not None and order.promised_slack_s < max(tick_s, oldest.tick_s):
            return None
        return oldest

    def account(self, tick_s: float, given_s: float) -> None:
        """A tick of `tick_s` seconds gave `given_s` of the engine to who went first."""
        self._credit_s = min(0.0, self._credit_s + AGEING_SHARE * tick_s - given_s)
