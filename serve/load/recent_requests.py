"""RecentRequests: what one ingress replica has answered in the last minute. Nothing is kept of who
asked for what."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

WINDOW_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class IngressLoad:
    """What an ingress replica tells the others: generations that ended in its last `seconds`, by
    outcome, what became of deadlines, and images in flight by tenant."""

    seconds: float
    outcomes: Mapping[str, int]
    deadlines: Mapping[str, int]
    in_flight: Mapping[str, int]


class _Second(NamedTuple):
    """A second of the clock, and what ended in it."""

    number: int
    outcomes: Counter[str]
    deadlines: Counter[str]


class RecentRequests:
    """Counts by the second, for `WINDOW_S` of them. For one event loop; `clock` is in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._seconds: deque[_Second] = deque()

    def count(self, outcome: str, deadline: str | None) -> None:
        """A generation has ended so, and `deadline` (met, missed, refused) became of its own."""
        now = int(self._clock())
        self._forget(now)
        if not self._seconds or self._seconds[-1].number != now:
            self._seconds.append(_Second(now, Counter(), Counter()))
        self._seconds[-1].outcomes[outcome] += 1
        if deadline is not None:
            self._seconds[-1].deadlines[deadline] += 1

    def load(self, in_flight: Mapping[str, int]) -> IngressLoad:
        """All of it, beside the images `in_flight` by tenant."""
        now = self._clock()
        self._forget(int(now))
        outcomes, deadlines = Counter[str](), Counter[str]()
        for second in self._seconds:
            outcomes.update(second.outcomes)
            deadlines.update(second.deadlines)
        return IngressLoad(
            seconds=min(float(WINDOW_S), max(1.0, now - self._since)),
            outcomes=outcomes,
            deadlines=deadlines,
            in_flight=dict(in_flight),
        )

    def _forget(self, now: int) -> None:
        while self._seconds and self._seconds[0].number <= now - WINDOW_S:
            self._seconds.popleft()
