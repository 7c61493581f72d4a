"""Ends work whose client has gone: an image that nobody waits for is not drawn."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.types import Receive, Scope

from serve.errors import ClientGone

T = TypeVar("T")

_STATE_KEY = "has_left"


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled as soon as the client disconnects.

    The request's body must have been read. Raises ClientGone, or whatever `work` raises.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(until_gone(request.receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        mark_left(request.scope)
        raise ClientGone
    finally:
        task.cancel()
        watch.cancel()
        # Until the work has noticed, its slot is not free.
        await asyncio.gather(task, watch, return_exceptions=True)


async def until_gone(receive: Receive) -> None:
    """Until the client disconnects; what its body still brings is dropped."""
    while (await receive())["type"] != "http.disconnect":
        pass


def mark_left(scope: Scope) -> None:
    """For what is cancelled next: it is because the client has left."""
    scope.setdefault("state", {})[_STATE_KEY] = True


def has_left(scope: Scope) -> bool:
    """Whether the client left while its answer was being sent."""
    return scope.get("state", {}).get(_STATE_KEY, False)
