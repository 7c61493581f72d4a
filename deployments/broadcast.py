"""What all replicas of a deployment answer, to callers that may leave meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ray.serve.handle import DeploymentHandle

AskAll = Callable[..., Awaitable[list[Any]]]
"""(method, *arguments) -> what each replica answered, this one among them, or the error instead."""

_asking: set[asyncio.Task[list[Any]]] = set()


async def ask_all_replicas(
    handle: DeploymentHandle[Any], method: str, *arguments: Any, timeout_s: float
) -> list[Any]:
    """The answer of each replica, or the error that it does not answer.

    Raises TimeoutError, and what Ray and Serve raise where nobody can be asked. A caller that is
    cancelled leaves at once, but the answers are waited for to their end: Serve's wait, when it is
    cancelled, leaves an error behind that nobody fetches, which asyncio logs with its traceback.
    """
    response: Any = handle.broadcast(method, *arguments)
    asking = asyncio.ensure_future(
        response.results_async(timeout_s=timeout_s, return_exceptions=True)
    )
    _asking.add(asking)
    asking.add_done_callback(_ended)
    return await asyncio.shield(asking)


def _ended(asking: asyncio.Task[list[Any]]) -> None:
    _asking.discard(asking)
    if not asking.cancelled():
        asking.exception()  # whoever asked may have left
