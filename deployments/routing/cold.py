"""ColdState: whether a pool of replicas sleeps, and how long it takes to wake.

Of one deployment, as one of the processes that call it sees it. Pure: time comes in as an argument,
in seconds of any one clock that does not go back. For any thread: Serve's routers have their own.
"""

from __future__ import annotations

import threading

NEWEST = 0.5
"""Share of the latest start in the moving average."""
OVERDUE_SHARE = 0.1
"""A start that takes longer than expected is expected to take this share of its time more."""
SILENCE_S = 0.5
"""Serve tells a new router at once which replicas run, and nothing at all where none ever ran."""


class ColdState:
    """The replicas of a pool, the last start of a first one, and how long starts have taken.

    A start is measured from the first wish for a pool that slept until a replica runs. Controls of
    other processes are not seen, and a start that they began seems shorter than it was.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._replicas: int | None = None
        self._opened_at: float | None = None
        self._wished_at: float | None = None
        self._woke_at: float | None = None
        self._start_s: float | None = None

    def opened(self, now: float) -> None:
        """A router was made; what runs already it is told at once."""
        with self._lock:
            if self._opened_at is None:
                self._opened_at = now

    def runs(self, replicas: int, now: float) -> None:
        """So many replicas run."""
        with self._lock:
            if replicas and not self._replicas:
                self._woke(now)
            self._replicas = replicas

    def wished(self, now: float) -> None:
        """Somebody needs the pool, and it sleeps."""
        with self._lock:
            if self._wished_at is None and not self._replicas:
                self._wished_at = now

    def given_up(self) -> None:
        """The wish was refused: no start comes of it."""
        with self._lock:
            self._wished_at = None

    def is_cold(self, now: float) -> bool:
        """Whether no replica runs; False as long as that is not known."""
        with self._lock:
            return self._is_asleep(now)

    def remaining_s(self, start_up_s: float, now: float) -> float:
        """Seconds until a replica will run, if the pool is wished for by now; 0 if one does.

        `start_up_s` is what a start takes before any was measured.
        """
        with self._lock:
            if not self._is_asleep(now):
                return 0.0
            expected = start_up_s if self._start_s is None else self._start_s
            elapsed = 0.0 if self._wished_at is None else now - self._wished_at
            return max(expected - elapsed, OVERDUE_SHARE * elapsed)

    def waited_s(self, since: float) -> float:
        """How long a caller that needed the pool from `since` on has waited for its start."""
        with self._lock:
            return 0.0 if self._woke_at is None else max(0.0, self._woke_at - since)

    def _is_asleep(self, now: float) -> bool:
        if self._replicas is None:
            return self._opened_at is not None and now - self._opened_at >= SILENCE_S
        return self._replicas == 0

    def _woke(self, now: float) -> None:
        self._woke_at = now
        if self._wished_at is not None:
            took = now - self._wished_at
            before = took if self._start_s is None else self._start_s
            self._start_s = before + NEWEST * (took - before)
            self._wished_at = None
