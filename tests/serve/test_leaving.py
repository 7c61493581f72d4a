"""A client that leaves while its body is read, as Ray Serve tells of it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from ray.exceptions import TaskCancelledError

from serve.http import create_app
from serve.leaving import LeavingMiddleware
from tests.serve.fakes import FakeGraph, services


async def test_it_is_no_error_of_the_servers(caplog: pytest.LogCaptureFixture):
    graph = FakeGraph()
    app = create_app(services(graph))
    app.add_middleware(LeavingMiddleware)
    messages: list[Any] = [{"type": "http.request", "body": b'{"prompt": ', "more_body": True}]
    sent: list[Any] = []

    async def receive() -> Any:
        if messages:
            return messages.pop()
        raise TaskCancelledError

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/images/generations",
        "raw_path": b"/v1/images/generations",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "scheme": "http",
        "server": ("testserver", 80),
        "client": ("127.0.0.1", 1),
        "http_version": "1.1",
        "root_path": "",
    }
    with caplog.at_level(logging.WARNING):
        await app(scope, receive, send)
    assert caplog.records == []
    assert graph.jobs == []
    assert [message for message in sent if message.get("status", 0) >= 500] == []
