"""Shutdown: that this replica is to go away, for whatever would else go on without an end."""

from __future__ import annotations

import asyncio
import threading


class Shutdown:
    """Begins once, and stays so. May begin in any thread; is waited for in any event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._has_begun = False
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    @property
    def has_begun(self) -> bool:
        return self._has_begun

    def begin(self) -> None:
        """Whoever waits goes on."""
        with self._lock:
            self._has_begun = True
            for loop, event in self._waiting:
                loop.call_soon_threadsafe(event.set)

    async def wait(self) -> None:
        """Until it has begun."""
        mine = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            if self._has_begun:
                return
            self._waiting.add(mine)
        try:
            await mine[1].wait()
        finally:
            with self._lock:
                self._waiting.discard(mine)
