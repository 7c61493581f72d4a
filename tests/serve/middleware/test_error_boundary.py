from __future__ import annotations

import logging

import pytest
from starlette.types import Message, Receive, Scope, Send

from pipelines.errors import NotReady
from serve.middleware.error_boundary import ErrorBoundaryMiddleware

START: Message = {"type": "http.response.start", "status": 200, "headers": []}


async def receive() -> Message:
    return {"type": "http.request"}


async def answer_to(error: Exception, *, started: bool = False) -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        if started:
            await send(START)
        raise error

    scope: Scope = {"type": "http", "state": {"request_id": "r-7"}}
    await ErrorBoundaryMiddleware(fails)(scope, receive, send)
    return sent


async def test_our_errors_have_their_status():
    start, _ = await answer_to(NotReady("starting"))
    assert start["status"] == 503


async def test_others_are_logged_with_the_request(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.ERROR, logger="ray.serve")
    start, body = await answer_to(KeyError("inside"))
    assert start["status"] == 500
    assert b"inside" not in body["body"]
    assert "request r-7" in caplog.text
    assert "KeyError: 'inside'" in caplog.text


@pytest.mark.parametrize("error", [KeyError("x"), NotReady("x")])
async def test_after_the_start_it_can_only_raise(error: Exception):
    with pytest.raises(type(error)):
        await answer_to(error, started=True)
