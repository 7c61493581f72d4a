"""A client that leaves takes its work along: spoken in raw ASGI, because no HTTP client leaves."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
from starlette.types import Message, Scope

from serve.http import create_app
from tests.serve.fakes import FakeGraph, services

SCOPE: Scope = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "POST",
    "scheme": "http",
    "path": "/v1/images/generations",
    "raw_path": b"/v1/images/generations",
    "query_string": b"",
    "root_path": "",
    "headers": [(b"host", b"t"), (b"content-type", b"application/json")],
    "client": ("127.0.0.1", 1),
    "server": ("t", 80),
}
BODY = json.dumps({"prompt": "a cat", "user": "u-1"}).encode()


@pytest.mark.timeout(20)
async def test_the_job_is_cancelled(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, logger="ray.serve")
    graph = FakeGraph(hangs=True)
    given = services(graph)
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    inbox.put_nowait({"type": "http.request", "body": BODY, "more_body": False})
    serving = asyncio.create_task(create_app(given)({**SCOPE}, inbox.get, send))
    await graph.entered.acquire()
    assert given.generations.admission.in_flight == 1
    inbox.put_nowait({"type": "http.disconnect"})
    await serving
    assert graph.cancelled == [graph.jobs[0].request_id]
    assert given.generations.admission.in_flight == 0
    assert sent[0]["status"] == 499
    assert "user='u-1' tenant='u-1' outcome=client_gone images=1" in caplog.text


@pytest.mark.parametrize("route", ["generations", "preflight"])
async def test_who_leaves_amid_a_body_is_no_failure_of_ours(
    caplog: pytest.LogCaptureFixture, route: str
):
    caplog.set_level(logging.INFO, logger="ray.serve")
    graph = FakeGraph()
    messages: list[Message] = [
        {"type": "http.request", "body": BODY[:5], "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    path = f"/v1/images/{route}"
    scope = {**SCOPE, "path": path, "raw_path": path.encode()}
    await create_app(services(graph))(scope, receive, send)
    assert sent[0]["status"] == 499
    assert graph.jobs == []
    assert "the client left" in caplog.text
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


@pytest.mark.timeout(20)
async def test_cancelling_the_request_cancels_the_job(caplog: pytest.LogCaptureFixture):
    """What Ray Serve does when its proxy loses the client."""
    caplog.set_level(logging.INFO, logger="ray.serve")
    graph = FakeGraph(hangs=True)
    given = services(graph)
    inbox: asyncio.Queue[Message] = asyncio.Queue()

    async def send(message: Message) -> None:
        raise AssertionError(f"nothing is to be sent, got {message}")

    inbox.put_nowait({"type": "http.request", "body": BODY, "more_body": False})
    serving = asyncio.create_task(create_app(given)({**SCOPE}, inbox.get, send))
    await graph.entered.acquire()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert len(graph.cancelled) == 1
    assert given.generations.admission.in_flight == 0
    assert "user='u-1' tenant='u-1' outcome=cancelled images=1" in caplog.text
