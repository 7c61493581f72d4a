"""Bounds the time in which bodies come, and how many may be on their way at once.

A body that comes a byte at a time holds one of the ingress's places for as long as it likes, and
with enough of them nobody else would be served. So they are counted apart, and the slowest go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.errors import BodyTimeout, Overloaded

GRACE_S = 1.0
"""Seconds that each body may take, however many there are."""


class BodyTimeMiddleware:
    """Raises BodyTimeout from `receive` once a body has taken `seconds`.

    Where more than `max_unread` bodies are on their way, the oldest is ended in the same way to
    make room for a new one; if none has taken `GRACE_S` yet, the new one raises Overloaded. What
    does not ask for a body is not counted. For one event loop.
    """

    def __init__(
        self, app: ASGIApp, *, seconds: Callable[[], float], max_unread: Callable[[], int]
    ) -> None:
        self._app = app
        self._seconds = seconds
        self._max_unread = max_unread
        self._unread: dict[_Body, None] = {}  # the oldest first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body: _Body | None = None
        is_read = False

        async def timed_receive() -> Message:
            nonlocal body, is_read
            if is_read:
                return await receive()
            if body is None:
                body = self._begin()
            message = await body.next(receive)
            if not message.get("more_body", False):
                is_read = True
                self._unread.pop(body, None)
            return message

        try:
            await self._app(scope, timed_receive, send)
        finally:
            if body is not None:
                self._unread.pop(body, None)

    def _begin(self) -> _Body:
        """A body from now on. Raises Overloaded."""
        if len(self._unread) >= self._max_unread():
            oldest = next(iter(self._unread))
            if oldest.age_s < GRACE_S:
                raise Overloaded(
                    f"{len(self._unread)} requests are being read, this server's limit;"
                    " try again in a moment",
                    retry_after_s=GRACE_S,
                )
            del self._unread[oldest]
            oldest.make_way()
        body = _Body(self._seconds())
        self._unread[body] = None
        return body


class _Body:
    """One body on its way."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._until = self._began + seconds
        self._made_way = False
        self._wait: asyncio.Timeout | None = None

    @property
    def age_s(self) -> float:
        return self._loop.time() - self._began

    async def next(self, receive: Receive) -> Message:
        """What comes next of it. Raises BodyTimeout."""
        limit = asyncio.timeout_at(self._until)
        try:
            async with limit:
                self._wait = limit
                return await receive()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise BodyTimeout(self._reason()) from error
        finally:
            self._wait = None

    def make_way(self) -> None:
        """End it now: `next` raises BodyTimeout, also where it waits already."""
        self._made_way = True
        self._until = self._loop.time()
        if self._wait is not None and not self._wait.expired():
            self._wait.reschedule(self._until)

    def _reason(self) -> str:
        if self._made_way:
            return "the body came too slowly while many others wait to be read; send it at once"
        return f"the body did not come within {self._seconds:g} s, this server's limit"
