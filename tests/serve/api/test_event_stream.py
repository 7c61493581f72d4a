"""Streams of events through the whole application: middleware, time limits, leaving, the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import pytest
from ray.exceptions import TaskCancelledError
from starlette.requests import Request
from starlette.responses import Response

from pipelines.errors import JobConflict, StoreUnavailable
from serve.api import event_stream as module
from serve.api.event_stream import ServerSentEvent, event_stream
from serve.api.services import Services
from serve.http import create_app
from serve.leaving import LeavingMiddleware
from tests.serve.api.asgi import Asked
from tests.serve.fakes import services

pytestmark = pytest.mark.timeout(30)

PATH = "/v1/test/events"
HELLO = ServerSentEvent("job.progress", {"type": "job.progress", "text": "one\ntwo\u2028é"}, 7)
BYE = ServerSentEvent("job.succeeded", {"type": "job.succeeded"}, 8)

Events = Callable[[], AsyncIterator[ServerSentEvent]]


class Source:
    """Events that a test gives one by one; knows whether it was closed."""

    def __init__(self) -> None:
        self.given: asyncio.Queue[ServerSentEvent | BaseException | None] = asyncio.Queue()
        self.asked = asyncio.Semaphore(0)
        self.closed = asyncio.Event()

    async def __call__(self) -> AsyncGenerator[ServerSentEvent]:
        try:
            while True:
                self.asked.release()
                item = await self.given.get()
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.closed.set()


@pytest.fixture
def source() -> Source:
    return Source()


def asked(
    events: Events,
    *,
    resumable: bool = True,
    given: Services | None = None,
    behind_serve: bool = False,
    **request: Any,
) -> Asked:
    app = create_app(services() if given is None else given)

    async def route(request: Request) -> Response:
        return event_stream(events(), request, resumable=resumable)

    app.add_api_route(PATH, route, response_model=None, methods=["GET"])
    if behind_serve:
        app.add_middleware(LeavingMiddleware)
    return Asked(app, PATH, **request)


async def test_what_is_sent(source: Source):
    stream = asked(source)
    status, headers = await stream.start()
    assert status == 200
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-store", "no")
    assert "content-length" not in headers
    assert "content-encoding" not in headers
    assert (await stream.chunk() or b"").startswith(b":")  # at once: nothing was given yet
    source.given.put_nowait(HELLO)
    assert await stream.event() == {"event": "job.progress", "id": "7", "data": HELLO.data}
    source.given.put_nowait(BYE)
    source.given.put_nowait(None)
    assert [event["event"] for event in await stream.events()] == ["job.succeeded"]
    await stream.serving


async def test_it_says_that_it_lives(source: Source, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "KEEP_ALIVE_S", 0.001)
    stream = asked(source)
    await stream.start()
    for _ in range(3):
        assert await stream.chunk() == b": keep-alive\n"
    source.given.put_nowait(BYE)
    assert (await stream.event() or {})["id"] == "8"
    stream.leave()
    await stream.serving


async def test_the_next_event_is_asked_for_once_the_one_before_is_sent(source: Source):
    """What is left out for a slow client is its source's to decide, which sees that it is slow."""
    source.given.put_nowait(HELLO)
    source.given.put_nowait(BYE)
    stream = asked(source, reads=2)
    await stream.start()
    await stream.chunk()
    await source.asked.acquire()
    stream.leave()
    assert source.given.qsize() == 1
    stream.serving.cancel()
    await asyncio.gather(stream.serving, return_exceptions=True)
    assert source.closed.is_set()


async def test_a_client_that_leaves_closes_what_it_waits_for(source: Source):
    stream = asked(source)
    await stream.start()
    await source.asked.acquire()
    stream.leave()
    await stream.serving
    assert source.closed.is_set()


async def test_an_event_that_is_being_handed_out_is_no_hiding_place(source: Source):
    """The iterator stands at its `yield`, where no cancellation reaches it."""
    source.given.put_nowait(HELLO)
    stream = asked(source)
    await stream.start()
    await stream.event()
    stream.leave()
    await stream.serving
    assert source.closed.is_set()


async def test_a_client_that_leaves_as_serve_tells_of_it(source: Source):
    stream = asked(source, behind_serve=True)
    await stream.start()
    await source.asked.acquire()
    stream.fail(TaskCancelledError())
    await stream.serving
    assert source.closed.is_set()


async def test_serve_cancels_the_request_itself(source: Source):
    stream = asked(source, behind_serve=True)
    await stream.start()
    await source.asked.acquire()
    stream.serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stream.serving
    assert source.closed.is_set()


async def test_an_error_is_the_last_event(source: Source):
    stream = asked(source)
    source.given.put_nowait(HELLO)
    source.given.put_nowait(StoreUnavailable("the store does not answer"))
    _, last = await stream.events_after_start()
    assert last["event"] == "error"
    assert last["data"] == {
        "error": {
            "message": "jobs can be neither read nor written now, and none is lost; ask again",
            "type": "server_error",
            "param": None,
            "code": "store_unavailable",
        }
    }
    await stream.serving


async def test_an_error_that_nobody_foresaw_is_told_in_the_log(
    source: Source, caplog: pytest.LogCaptureFixture
):
    stream = asked(source)
    source.given.put_nowait(RuntimeError("secret"))
    (last,) = await stream.events_after_start()
    assert last["data"]["error"]["code"] == "internal_error"
    assert "secret" not in str(last)
    await stream.serving
    assert "secret" in caplog.text


async def test_an_error_before_the_stream_is_an_answer_of_its_own():
    def events() -> AsyncIterator[ServerSentEvent]:
        raise JobConflict("not over")

    status, headers = await asked(events).start()
    assert (status, headers["content-type"]) == (409, "application/json")


class TestTheTimeLimit:
    async def test_one_that_can_be_resumed_just_ends(self, source: Source):
        source.given.put_nowait(HELLO)
        stream = asked(source)
        await stream.start()
        assert (await stream.event() or {})["id"] == "7"
        stream.expire()
        assert await stream.events() == []
        await stream.serving
        assert source.closed.is_set()

    async def test_any_other_ends_with_its_error(self, source: Source):
        stream = asked(source, resumable=False, given=services(limits={"request_timeout_s": 77}))
        await stream.start()
        await source.asked.acquire()
        stream.expire()
        (last,) = await stream.events()
        assert last["data"]["error"]["code"] == "request_timeout"
        assert "not done after 77 s" in last["data"]["error"]["message"]
        await stream.serving
        assert source.closed.is_set()

    async def test_a_client_that_reads_nothing_holds_it_no_longer(
        self, source: Source, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(module, "_LAST_WORDS_S", 0.01)
        source.given.put_nowait(HELLO)
        stream = asked(source, resumable=False, reads=2)
        await stream.start()
        await source.asked.acquire()
        stream.expire()
        await stream.serving
        assert source.closed.is_set()


class TestAReplicaThatGoesAway:
    async def test_a_stream_that_can_be_resumed_ends(self, source: Source):
        given = services()
        stream = asked(source, given=given)
        source.given.put_nowait(HELLO)
        await stream.start()
        await stream.event()
        await asyncio.to_thread(given.shutdown.begin)
        assert await stream.events() == []
        await stream.serving
        assert source.closed.is_set()

    async def test_one_that_comes_then_ends_at_once(self, source: Source):
        given = services()
        given.shutdown.begin()
        stream = asked(source, given=given)
        assert await stream.events_after_start() == []
        await stream.serving

    async def test_any_other_goes_on(self, source: Source):
        given = services()
        stream = asked(source, resumable=False, given=given)
        await stream.start()
        given.shutdown.begin()
        source.given.put_nowait(BYE)
        assert (await stream.event() or {})["event"] == "job.succeeded"
        source.given.put_nowait(None)
        await stream.serving


async def test_head_is_answered_without_an_event(source: Source):
    stream = asked(source, method="HEAD")
    status, headers = await stream.start()
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert await stream.chunk() is None
    await stream.serving
