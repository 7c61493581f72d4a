"""Event streams behind a proxy that buffers answers, as nginx does unless it is told otherwise.

nginx passes chunks on as they come, buffering or not. What it holds back is an answer that ends
with its connection, as h11 gives one to nginx's HTTP/1.0; httptools sends chunks even there.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from httpx_sse import ServerSentEvent as Received
from httpx_sse import connect_sse
from starlette.requests import Request
from starlette.responses import Response

from serve.api.event_stream import ServerSentEvent, event_stream
from serve.http import create_app
from tests.cluster import free_port
from tests.serve.fakes import services
from tests.serve.nginx import needs_nginx, proxied
from tests.serve.previewing_graph import PreviewingGraph

pytestmark = [needs_nginx, pytest.mark.timeout(120)]

NUM_EVENTS = 3
HELD_BACK_S = 30.0
"""After which what has not come is taken for held back: what it waits for comes after it."""


class ConfirmedEvents:
    """Events of which each is sent once the one before has been confirmed, by another request."""

    def __init__(self) -> None:
        self.confirmed = [asyncio.Event() for _ in range(NUM_EVENTS)]
        self.closed = asyncio.Event()

    async def __call__(self) -> AsyncGenerator[ServerSentEvent]:
        try:
            for number, confirmed in enumerate(self.confirmed):
                yield ServerSentEvent("job.progress", {"number": number}, number)
                await confirmed.wait()
        finally:
            self.closed.set()


@pytest.fixture
def graph() -> PreviewingGraph:
    return PreviewingGraph(preview_steps=range(1, 12), hangs=True)


@pytest.fixture
def client(tmp_path: Path, graph: PreviewingGraph) -> Iterator[httpx.Client]:
    """Of the application behind nginx, with routes that send, confirm and tell of the end."""
    app, events = create_app(services(graph)), ConfirmedEvents()

    async def send(request: Request) -> Response:
        return event_stream(events(), request, resumable=True)

    async def confirm(number: int) -> Response:
        events.confirmed[number].set()
        return Response()

    async def closed() -> Response:
        await events.closed.wait()
        return Response()

    async def go() -> Response:
        graph.go.set()
        return Response()

    app.add_api_route("/test/events", send, response_model=None)
    app.add_api_route("/test/confirm/{number}", confirm, response_model=None)
    app.add_api_route("/test/closed", closed, response_model=None)
    app.add_api_route("/test/go", go, response_model=None)
    port = free_port()
    config = uvicorn.Config(app, port=port, http="h11", log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        with (
            proxied(port, tmp_path) as front,
            httpx.Client(base_url=f"http://127.0.0.1:{front}", timeout=HELD_BACK_S) as client,
        ):
            yield client
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def received(
    client: httpx.Client, method: str, path: str, **body: object
) -> Iterator[Iterator[Received]]:
    """The events of a request as they come."""
    with connect_sse(client, method, path, json=body or None) as source:
        assert source.response.headers["server"].startswith("nginx")
        yield source.iter_sse()


def test_every_event_comes_when_it_is_sent(client: httpx.Client):
    with received(client, "GET", "/test/events") as events:
        for number in range(NUM_EVENTS):
            event = next(events)
            assert (event.id, event.json()) == (str(number), {"number": number})
            client.get(f"/test/confirm/{number}").raise_for_status()
        assert list(events) == []


def test_a_client_that_leaves_is_noticed(client: httpx.Client):
    with received(client, "GET", "/test/events") as events:
        next(events)
    client.get("/test/closed").raise_for_status()


def test_partial_images_come_while_the_image_is_drawn(client: httpx.Client):
    body = {"prompt": "a cat", "stream": True, "partial_images": 2}
    with received(client, "POST", "/v1/images/generations", **body) as events:
        assert [next(events).json()["partial_image_index"] for _ in range(2)] == [0, 1]
        client.get("/test/go").raise_for_status()
        (completed,) = events
    assert completed.event == "image_generation.completed"
