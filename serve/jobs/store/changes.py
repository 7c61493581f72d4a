"""Changes: who waits for a job's next event, here or written by another process.

What this process writes is told at once; for the rest one look at the store, for all who wait, is
repeated while anybody does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from pipelines.errors import StoreUnavailable

POLL_S = 0.2

Newest = Callable[[Sequence[str]], Awaitable[Mapping[str, int]]]
"""Job ids -> the number of each one's newest event; none of jobs that are gone."""


class _Waiter:
    def __init__(self, job_id: str, after: int) -> None:
        self.job_id = job_id
        self.after = after
        self.changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def tell(self, newest: int | None) -> None:
        if not self.changed.done() and (newest is None or newest > self.after):
            self.changed.set_result(None)

    def fail(self, error: StoreUnavailable) -> None:
        if not self.changed.done():
            self.changed.set_exception(error)


class Changes:
    """All methods are the event loop's."""

    def __init__(self, newest: Newest) -> None:
        self._newest = newest
        self._waiters: set[_Waiter] = set()
        self._polling: asyncio.Task[None] | None = None

    async def wait(self, job_id: str, *, after: int, timeout_s: float) -> bool:
        """True once the job has an event above `after` or is gone, False after the time."""
        waiter = _Waiter(job_id, after)
        self._waiters.add(waiter)
        try:
            waiter.tell((await self._newest([job_id])).get(job_id))
            if self._polling is None or self._polling.done():
                self._polling = asyncio.create_task(self._poll())
            await asyncio.wait([waiter.changed], timeout=timeout_s)
            if not waiter.changed.done():
                return False
            waiter.changed.result()
            return True
        finally:
            self._waiters.discard(waiter)
            waiter.changed.cancel()

    def tell(self, job_id: str, newest: int | None) -> None:
        """The job has events up to `newest` now, or is gone (None)."""
        for waiter in self._waiters:
            if waiter.job_id == job_id:
                waiter.tell(newest)

    async def close(self) -> None:
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.wait([self._polling])

    async def _poll(self) -> None:
        while self._waiters:
            await asyncio.sleep(POLL_S)
            waiters = list(self._waiters)
            try:
                newest = await self._newest(sorted({waiter.job_id for waiter in waiters}))
            except StoreUnavailable as error:
                for waiter in waiters:
                    waiter.fail(error)
            else:
                for waiter in waiters:
                    waiter.tell(newest.get(waiter.job_id))
