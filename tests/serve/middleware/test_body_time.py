from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest
from starlette.types import Message, Receive, Scope, Send

from pipelines.errors import BodyTimeout, Overloaded
from serve.app import ingress_deployment
from serve.middleware import body_time
from serve.middleware.body_time import BodyTimeMiddleware
from serve.settings.settings import Settings
from tests.serve.conftest import ClientOf
from tests.serve.fakes import FakeGraph, services

URL = "/v1/images/generations"
JSON = {"content-type": "application/json"}

PART: Message = {"type": "http.request", "body": b"x", "more_body": True}
LAST: Message = {"type": "http.request", "body": b"x", "more_body": False}
GONE: Message = {"type": "http.disconnect"}


async def reads(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that reads the whole body, and then waits until its client is gone."""
    while (await receive()).get("more_body", False):
        pass
    assert await receive() == GONE


async def send(message: Message) -> None:
    raise AssertionError(f"nothing is sent, got {message}")


def middleware(
    app: Callable[..., object] = reads, *, seconds: float = 60, max_unread: int = 2
) -> BodyTimeMiddleware:
    return BodyTimeMiddleware(app, seconds=lambda: seconds, max_unread=lambda: max_unread)  # type: ignore[arg-type]


class Client:
    """One request to `app`: what is put into `messages` is what it sends."""

    def __init__(self, app: BodyTimeMiddleware) -> None:
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self.ended = asyncio.ensure_future(app({"type": "http"}, self.messages.get, send))

    async def says(self, *messages: Message) -> None:
        for message in messages:
            self.messages.put_nowait(message)
        for _ in range(10):
            await asyncio.sleep(0)


async def test_a_body_that_trickles_is_ended():
    client = Client(middleware(seconds=0.02))
    for _ in range(3):
        await client.says(PART)
    with pytest.raises(BodyTimeout, match=r"within 0\.02 s"):
        await client.ended


async def test_after_the_body_there_is_no_limit():
    client = Client(middleware(seconds=0.02))
    await client.says(PART, LAST)
    await asyncio.sleep(0.05)
    await client.says(GONE)
    await client.ended


async def test_one_that_does_not_read_has_none():
    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.05)

    await Client(middleware(waits, seconds=0.01)).ended


async def test_a_timeout_of_the_server_below_is_not_taken_for_its_own():
    async def fails() -> Message:
        raise TimeoutError("a socket")

    with pytest.raises(TimeoutError, match="a socket"):
        await middleware()({"type": "http"}, fails, send)


async def test_the_oldest_makes_way(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(body_time, "GRACE_S", 0.0)
    app = middleware(max_unread=2)
    clients = [Client(app) for _ in range(3)]
    for client in clients:
        await client.says(PART)
    with pytest.raises(BodyTimeout, match="too slowly"):
        await clients[0].ended
    for client in clients[1:]:
        await client.says(LAST, GONE)
        await client.ended


async def test_one_whose_time_is_up_may_make_way_at_that_moment(monkeypatch: pytest.MonkeyPatch):
    """Its timeout has been set off, and the coroutine has not heard of it yet."""
    monkeypatch.setattr(body_time, "GRACE_S", 0.0)
    app = middleware(max_unread=1, seconds=0.0)
    clients: list[Client] = []
    for _ in range(20):  # one more in every turn of the loop
        clients.append(Client(app))
        await asyncio.sleep(0)
    for client in clients:
        with pytest.raises(BodyTimeout):
            await client.ended


async def test_none_makes_way_before_it_had_a_second():
    app = middleware(max_unread=2)
    slow = [Client(app), Client(app)]
    for client in slow:
        await client.says(PART)
    with pytest.raises(Overloaded, match="2 requests are being read"):
        await Client(app).ended
    await slow[0].says(LAST)  # it is read: there is room
    other = Client(app)
    await other.says(LAST, GONE)
    await other.ended
    await slow[0].says(GONE)
    await slow[1].says(LAST, GONE)
    for client in slow:
        await client.ended


async def test_one_that_fails_leaves_room():
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        raise RuntimeError("no")

    app = middleware(fails, max_unread=1)
    for _ in range(3):
        client = Client(app)
        await client.says(PART)
        with pytest.raises(RuntimeError):
            await client.ended


async def trickle() -> AsyncIterator[bytes]:
    yield b"{"
    await asyncio.Event().wait()


async def test_health_and_refusals_while_bodies_trickle(client_of: ClientOf, graph: FakeGraph):
    limits = {"body_timeout_s": 0.5, "max_unread_bodies": 4}
    client = client_of(services(graph, limits=limits))
    async with AsyncExitStack() as stack:
        group = await stack.enter_async_context(asyncio.TaskGroup())
        slow = [
            group.create_task(client.post(URL, content=trickle(), headers=JSON)) for _ in range(8)
        ]
        await asyncio.sleep(0)
        for path in ("/healthz", "/readyz", "/v1/models"):
            assert (await client.get(path)).status_code == 200
        assert (await client.post("/nothing", content=trickle())).status_code == 404
    answers = [task.result() for task in slow]
    assert sorted(answer.status_code for answer in answers) == 4 * [408] + 4 * [429]
    for answer in answers:
        code = answer.json()["error"]["code"]
        assert (answer.status_code, code) in {(408, "body_timeout"), (429, "overloaded")}
        assert (answer.headers.get("connection") == "close") == (answer.status_code == 408)
    assert graph.jobs == []
    assert (await client.post(URL, json={"prompt": "a"})).status_code == 200


def test_bodies_and_images_leave_places_for_the_rest():
    settings = Settings.load({"limits.max_queued_images": 7, "limits.max_unread_bodies": 11})
    assert ingress_deployment(settings).max_ongoing_requests - 7 - 11 >= 100
