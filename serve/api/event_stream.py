"""Server-sent events as a response (WHATWG HTML, section 9.2): one way for all routes that stream.

A stream ends in one of these ways, and is never cut in the middle of an event:

- its events are over;
- an error: the last event has the error's body, as an answer of its own would (OpenAI's clients
  raise it);
- the client leaves: the events' iterator is closed at once, and with it what it drives;
- `limits.request_timeout_s`, which http_options.request_timeout_s of Ray Serve's proxies follows
  soon. A stream that can be resumed just ends, as no limit should fail a job that is allowed to
  take longer: the client asks again with `last-event-id`, which browsers do by themselves. Any
  other has the error of a request that took too long;
- this replica goes away: a stream that can be resumed just ends, to be resumed at another one. Any
  other goes on, as all requests under way do.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, runtime_checkable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pipelines.errors import SluiceError
from serve.api.disconnect import mark_left, until_gone
from serve.api.services import services_of
from serve.error_responses import error_body, internal_error_body
from serve.errors import CLIENT_GONE_OUTCOME, error_code
from serve.middleware.head import IS_HEAD
from serve.middleware.timeout import is_over_time, over_time
from serve.middleware.tracing import record_outcome
from serve.shutdown import Shutdown

MEDIA_TYPE = "text/event-stream"

KEEP_ALIVE_S = 10.0
"""Seconds after which a silent stream says that it lives; proxies give up after 30 to 60."""

ERROR_EVENT = "error"

_LAST_WORDS_S = 1.0
"""For the last event of a stream whose time is over: a client that does not read has none."""

_KEEP_ALIVE = b": keep-alive\n"
"""Without an empty line after it: some clients take one after a comment for an event without data,
as soon as an event has had an id."""

_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}

STREAM_HEADERS: Mapping[str, Any] = {
    name: {"description": "Of a stream of events.", "schema": {"type": "string", "const": value}}
    for name, value in _HEADERS.items()
}
"""As the API's document has them."""

logger = logging.getLogger("ray.serve")


def stream_content(description: str) -> dict[str, Any]:
    """`content` of a stream in the API's document, whose schema is that of one event."""
    event = {
        "type": "object",
        "description": description,
        "properties": {
            "id": {"type": "string"},
            "event": {"type": "string"},
            "data": {"type": "string", "contentMediaType": "application/json"},
        },
        "required": ["event", "data"],
    }
    return {MEDIA_TYPE: {"schema": event}}


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event. `data` is JSON, and never has to be a string of lines; `id` is for streams that
    can be resumed after it."""

    event: str
    data: Mapping[str, Any]
    id: int | None = None

    def __post_init__(self) -> None:
        assert self.event.isprintable(), self.event

    def encode(self) -> bytes:
        """As it is sent. In ASCII, as `ApiResponse` is."""
        text = json.dumps(self.data, allow_nan=False, separators=(",", ":"))
        number = "" if self.id is None else f"id: {self.id}\n"
        return f"{number}event: {self.event}\ndata: {text}\n\n".encode("ascii")


def event_stream(
    events: AsyncIterator[ServerSentEvent],
    request: Request,
    *,
    resumable: bool,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """`events` as they come, each sent before the next one is asked for.

    They are iterated in one task of their own, which is cancelled when nobody is there to hear
    them; then, and in any other case, what has an `aclose` is closed. `resumable` says that the
    same URL goes on after the event of `last-event-id`. The request's body, if it has one, must
    have been read.
    """
    shutdown = services_of(request).shutdown
    return EventStreamResponse(events, shutdown if resumable else None, headers or {})


class EventStreamResponse(Response):
    """A stream of events; without `shutdown` it cannot be resumed."""

    media_type = MEDIA_TYPE

    def __init__(
        self,
        events: AsyncIterator[ServerSentEvent],
        shutdown: Shutdown | None,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(headers={**headers, **_HEADERS})
        del self.headers["content-length"]
        self._events = events
        self._shutdown = shutdown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def write(data: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more})

        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        if scope.get("state", {}).get(IS_HEAD, False):
            await _close(self._events)
            await send(start)
            await write(b"", more=False)
            return
        inbox = _Inbox()
        tasks = [
            inbox.ends_with(inbox.fill(self._events), _End.OVER),
            inbox.ends_with(until_gone(receive), _End.LEFT),
        ]
        if self._shutdown is not None:
            tasks.append(inbox.ends_with(self._shutdown.wait(), _End.GOES_AWAY))
        last, patience_s = b"", None
        try:
            await send(start)
            await write(_KEEP_ALIVE)
            while isinstance(item := await inbox.next(), ServerSentEvent | None):
                await write(_KEEP_ALIVE if item is None else item.encode())
                inbox.sent(item)
            if item is _End.LEFT:
                mark_left(scope)
                record_outcome(scope, CLIENT_GONE_OUTCOME)
                return
            if isinstance(item, BaseException):
                last = _error_event(item, scope)
        except asyncio.CancelledError:
            # Where the time is over, this is the end of the wait and not of the request: the
            # middleware that cancelled it sees that it has ended, and says no more.
            if not is_over_time(scope):
                raise
            patience_s = _LAST_WORDS_S
            if self._shutdown is None:
                last = _error_event(over_time(scope), scope)
        finally:
            # What the events drive is over before the answer is.
            for task in tasks:
                task.cancel()
            try:
                await asyncio.gather(*tasks, return_exceptions=True)
            finally:
                await _close(self._events)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await write(last, more=False)


class _End(Enum):
    """How a stream ends without an error."""

    OVER = "over"
    LEFT = "left"
    GOES_AWAY = "goes away"


class _Inbox:
    """What comes for one stream: its events, its end, or the error that ends it."""

    def __init__(self) -> None:
        self._items: asyncio.Queue[ServerSentEvent | _End | BaseException] = asyncio.Queue()

    async def next(self) -> ServerSentEvent | _End | BaseException | None:
        """None where nothing has come for `KEEP_ALIVE_S`."""
        try:
            async with asyncio.timeout(KEEP_ALIVE_S):
                return await self._items.get()
        except TimeoutError:
            return None

    def sent(self, item: ServerSentEvent | None) -> None:
        """The next event may come."""
        if item is not None:
            self._items.task_done()

    async def fill(self, events: AsyncIterator[ServerSentEvent]) -> None:
        """Take all of `events`, each once the one before is sent."""
        async for event in events:
            self._items.put_nowait(event)
            await self._items.join()

    def ends_with(self, work: Coroutine[Any, Any, None], end: _End) -> asyncio.Task[None]:
        """`work` as a task: its end is that of the stream, and so is its error."""

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled():
                self._items.put_nowait(task.exception() or end)

        task = asyncio.create_task(work)
        task.add_done_callback(ended)
        return task


@runtime_checkable
class _Closable(Protocol):
    async def aclose(self) -> None: ...


async def _close(events: AsyncIterator[ServerSentEvent]) -> None:
    if isinstance(events, _Closable):
        await events.aclose()


def _error_event(error: BaseException, scope: Scope) -> bytes:
    record_outcome(scope, error_code(error))
    if isinstance(error, SluiceError):
        return ServerSentEvent(ERROR_EVENT, error_body(error)).encode()
    request_id = scope.get("state", {}).get("request_id", "-")
    logger.error("request %s: unforeseen error in a stream", request_id, exc_info=error)
    return ServerSentEvent(ERROR_EVENT, internal_error_body()).encode()
