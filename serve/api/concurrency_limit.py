"""ConcurrencyLimit: how many requests may do at once what takes memory."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from pipelines.errors import Overloaded

_RETRY_AFTER_S = 1.0


class ConcurrencyLimit:
    """Counts places that are taken. For one event loop."""

    def __init__(self) -> None:
        self._taken = 0

    @contextmanager
    def one_of(self, count: int, what: str) -> Generator[None]:
        """Holds one of `count` places. Raises Overloaded, naming `what` they are for."""
        if self._taken >= count:
            raise Overloaded(
                f"{count} {what} at once, this server's limit", retry_after_s=_RETRY_AFTER_S
            )
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
