"""Refuses work early: a bounded number of generations in flight, and a guess when to come back."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from pipelines.errors import Overloaded

_WEIGHT = 0.2
"""Share of the newest duration in the running mean."""


class Admission:
    """Counts generations in flight. For one event loop; `clock` is in seconds."""

    def __init__(self, max_in_flight: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_in_flight = max_in_flight
        self._clock = clock
        self._in_flight = 0
        self._mean_s = 1.0

    @property
    def in_flight(self) -> int:
        """Generations that are admitted and not over."""
        return self._in_flight

    @contextmanager
    def slot(self) -> Generator[None]:
        """Hold a place for the body's time.

        Raises Overloaded when all are taken, with the mean duration as the time to come back in.
        """
        if self._in_flight >= self._max_in_flight:
            raise Overloaded(
                f"{self._in_flight} requests are in flight, this server's limit;"
                " try again in a moment",
                retry_after_s=self._mean_s,
            )
        self._in_flight += 1
        start = self._clock()
        try:
            yield
            self._mean_s += _WEIGHT * (self._clock() - start - self._mean_s)
        finally:
            self._in_flight -= 1
