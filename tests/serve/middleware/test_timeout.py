from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from pipelines.errors import RequestTimeout
from serve.middleware.timeout import TimeoutMiddleware


async def receive() -> Message:
    return {"type": "http.request"}


async def send(message: Message) -> None:
    raise AssertionError(f"nothing is sent, got {message}")


async def test_what_it_started_is_cancelled():
    cancelled = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(RequestTimeout, match=r"not done after 0\.02 s"):
        await TimeoutMiddleware(slow, seconds=lambda: 0.02)({"type": "http"}, receive, send)
    assert cancelled.is_set()


async def test_a_timeout_from_inside_is_not_taken_for_its_own():
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise TimeoutError("a socket")

    with pytest.raises(TimeoutError, match="a socket"):
        await TimeoutMiddleware(fails, seconds=lambda: 60)({"type": "http"}, receive, send)


async def test_a_lifespan_has_no_limit():
    async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.05)

    await TimeoutMiddleware(lifespan, seconds=lambda: 0.001)({"type": "lifespan"}, receive, send)
