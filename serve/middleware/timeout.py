"""Bounds the time of a request; what it started is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from pipelines.errors import RequestTimeout

_STATE_KEY = "time_limit"


def is_over_time(scope: Scope) -> bool:
    """Whether a cancellation seen inside the middleware is its own."""
    limit: asyncio.Timeout | None = scope.get("state", {}).get(_STATE_KEY)
    return limit is not None and limit.expired()


class TimeoutMiddleware:
    """Cancels the request after `seconds` and raises RequestTimeout."""

    def __init__(self, app: ASGIApp, *, seconds: Callable[[], float]) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seconds = self._seconds()
        limit = asyncio.timeout(seconds)
        scope.setdefault("state", {})[_STATE_KEY] = limit
        try:
            async with limit:
                await self._app(scope, receive, send)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise RequestTimeout(
                f"not done after {seconds:g} s, this server's limit;"
                " ask for fewer images, fewer steps or a smaller size"
            ) from error
