"""Equal calls under way at the same time are run once, and all who asked share the outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


class SingleFlight(Generic[Key, Result]):
    """Runs one task per key. For one event loop; keeps no result once the task has ended."""

    def __init__(self) -> None:
        self._flights: dict[Key, _Flight[Result]] = {}

    def is_running(self, key: Key) -> bool:
        """Whether a call to `run` with this key would share a task that is under way."""
        flight = self._flights.get(key)
        return flight is not None and not flight.task.done()

    async def run(
        self,
        key: Key,
        start: Callable[[], Coroutine[Any, Any, Result]],
        *,
        context: Context | None = None,
    ) -> Result:
        """The result of `start()`, or of the task that an equal call has started.

        An error goes to all who wait. One who leaves disturbs no other; when the last has left, the
        task is cancelled. The task belongs to none of them, so it runs in `context`, by default an
        empty one: calls made in a copy of the first caller's would be Serve's to cancel with it.
        """
        if not self.is_running(key):
            task = asyncio.create_task(start(), context=Context() if context is None else context)
            # An error that comes once all have left is nobody's.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._flights[key] = _Flight(task)
        flight = self._flights[key]
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiters -= 1
            if flight.waiters == 0:
                flight.task.cancel()
                if self._flights.get(key) is flight:
                    del self._flights[key]


@dataclass(slots=True)
class _Flight(Generic[Result]):
    """One task under way, and how many calls wait for it."""

    task: asyncio.Task[Result]
    waiters: int = 0
