"""One request spoken in raw ASGI: no HTTP client of the tests reads a stream while it is sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Scope


class Asked:
    """A request to `app`, answered in a task of its own; its messages as they come."""

    def __init__(
        self,
        app: ASGIApp,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        method: str | None = None,
        headers: Mapping[str, str] | None = None,
        reads: int | None = None,
    ) -> None:
        """`reads`: after so many messages the client takes no more."""
        self._reads = reads
        self._num_sent = 0
        self._has_ended = False
        self._inbox: asyncio.Queue[Message | BaseException] = asyncio.Queue()
        self._sent: asyncio.Queue[Message] = asyncio.Queue()
        data = b"" if body is None else json.dumps(body).encode()
        self._inbox.put_nowait({"type": "http.request", "body": data, "more_body": False})
        given = {"host": "sluice.test", "content-type": "application/json", **(headers or {})}
        where, _, query = path.partition("?")
        self._scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method or ("GET" if body is None else "POST"),
            "scheme": "http",
            "path": where,
            "raw_path": where.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "client": ("127.0.0.1", 1),
            "server": ("sluice.test", 80),
        }
        self.serving = asyncio.create_task(self._serve(app))

    async def _serve(self, app: ASGIApp) -> None:
        await app(self._scope, self._receive, self._send)

    async def _receive(self) -> Message:
        message = await self._inbox.get()
        if isinstance(message, BaseException):
            raise message
        return message

    async def _send(self, message: Message) -> None:
        self._num_sent += 1
        if self._reads is not None and self._num_sent > self._reads:
            await asyncio.Event().wait()
        self._sent.put_nowait(message)

    async def start(self) -> tuple[int, dict[str, str]]:
        """Status and headers."""
        message = await self._sent.get()
        assert message["type"] == "http.response.start"
        return message["status"], {k.decode(): v.decode() for k, v in message["headers"]}

    async def chunk(self) -> bytes | None:
        """What is sent next of the body; None: it has ended."""
        if self._has_ended:
            return None
        message = await self._sent.get()
        assert message["type"] == "http.response.body"
        self._has_ended = not message.get("more_body", False)
        return message["body"] or None

    async def event(self) -> dict[str, Any] | None:
        """The next event's `event`, `id` and `data`, past comments; None: the stream has ended."""
        while (chunk := await self.chunk()) is not None:
            if not chunk.startswith(b":"):
                return parse_event(chunk)
        return None

    async def events(self) -> list[dict[str, Any]]:
        """All that are still to come."""
        found: list[dict[str, Any]] = []
        while (event := await self.event()) is not None:
            found.append(event)
        return found

    async def events_after_start(self) -> list[dict[str, Any]]:
        """All events of an answer that is one of them."""
        status, _ = await self.start()
        assert status == 200
        return await self.events()

    def fail(self, error: BaseException) -> None:
        """What brings the request's messages raises `error`."""
        self._inbox.put_nowait(error)

    def expire(self) -> None:
        """`limits.request_timeout_s` have passed."""
        limit: asyncio.Timeout = self._scope["state"]["time_limit"].timeout
        limit.reschedule(asyncio.get_running_loop().time())

    def leave(self) -> None:
        """The client hangs up."""
        self._inbox.put_nowait({"type": "http.disconnect"})


def parse_event(chunk: bytes) -> dict[str, Any]:
    """One event as it is sent: exactly one, with one line of data."""
    assert chunk.endswith(b"\n\n")
    assert chunk.count(b"\n\n") == 1
    lines = chunk.decode("utf-8").strip().split("\n")
    fields = dict(line.split(": ", 1) for line in lines)
    assert len(fields) == len(lines)
    return {**fields, "data": json.loads(fields["data"])}
