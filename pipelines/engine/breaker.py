"""Tells a stage that fails on whatever it is given from works that fail on their own."""

from __future__ import annotations

import time

from pipelines.errors import StageFailed

MAX_REQUESTS = 3
"""Requests that fail in a row, for no reason that the stage knows, until it is suspected."""

PAUSE_S = 1.0
"""Before a suspected stage is tried again: what held its memory may be gone then."""


class Breaker:
    """Counts what failed since the last success.

    After `MAX_REQUESTS` requests it is `open`: nothing more should be given to the stage for a
    while. If as many fail again after a pause, the stage is taken for lost.
    """

    def __init__(self) -> None:
        self._failed: set[str] = set()
        self._has_paused = False

    @property
    def open(self) -> bool:
        """Whether the stage is suspected."""
        return len(self._failed) >= MAX_REQUESTS

    def succeeded(self) -> None:
        """The stage did something for somebody."""
        self._failed.clear()
        self._has_paused = False

    def failed(self, request: str) -> None:
        """The stage failed on a work of `request`, which may have several."""
        self._failed.add(request)

    def pause(self) -> None:
        """Wait, and give it another chance; the second time in a row raises StageFailed."""
        if self._has_paused:
            raise StageFailed("the stage fails on all that it is given", stage="Denoiser")
        self._failed.clear()
        self._has_paused = True
        time.sleep(PAUSE_S)
