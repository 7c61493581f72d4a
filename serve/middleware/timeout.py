"""Bounds the time of a request; what it started is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from pipelines.errors import RequestTimeout

_STATE_KEY = "time_limit"


class _TimeLimit(NamedTuple):
    seconds: float
    timeout: asyncio.Timeout

    @property
    def error(self) -> RequestTimeout:
        return RequestTimeout(
            f"not done after {self.seconds:g} s, this server's limit;"
            " ask for fewer images, fewer steps or a smaller size"
        )


def is_over_time(scope: Scope) -> bool:
    """Whether a cancellation seen inside the middleware is its own."""
    limit: _TimeLimit | None = scope.get("state", {}).get(_STATE_KEY)
    return limit is not None and limit.timeout.expired()


def over_time(scope: Scope) -> RequestTimeout:
    """The error of a request that `is_over_time`."""
    limit: _TimeLimit = scope["state"][_STATE_KEY]
    return limit.error


class TimeoutMiddleware:
    """Cancels the request after `seconds` and raises RequestTimeout.

    A response that has begun may take the cancellation for its end, and say so itself.
    """

    def __init__(self, app: ASGIApp, *, seconds: Callable[[], float]) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seconds = self._seconds()
        limit = _TimeLimit(seconds, asyncio.timeout(seconds))
        scope.setdefault("state", {})[_STATE_KEY] = limit
        try:
            async with limit.timeout:
                await self._app(scope, receive, send)
        except TimeoutError as error:
            if not limit.timeout.expired():
                raise
            raise limit.error from error
