"""A server of just as much HTTP/1.1 as the load generator speaks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class FakeServer:
    """Answers with what `answer` makes of a request's JSON; keeps the requests and their
    connections' `handlers`.

    `most_in_flight` is how many requests it had at once. With `turns`, each takes so many turns of
    the event loop.
    """

    answer: Callable[[dict[str, object]], tuple[int, str]]
    turns: int = 5
    url: str = ""
    most_in_flight: int = 0
    requests: list[dict[str, object]] = field(default_factory=list)
    handlers: list[asyncio.Task[None]] = field(default_factory=list)
    _in_flight: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task: asyncio.Task[None] | None = asyncio.current_task()
        assert task is not None
        self.handlers.append(task)
        while head := await _head(reader):
            length = next(
                int(line.split(":")[1]) for line in head if line.startswith("content-length")
            )
            request = json.loads(await reader.readexactly(length))
            self.requests.append(request)
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
            for _ in range(self.turns):
                await asyncio.sleep(0)
            self._in_flight -= 1
            status, body = self.answer(request)
            writer.write(
                f"HTTP/1.1 {status} OK\r\nContent-Length: {len(body)}\r\nX-Kind: fake\r\n\r\n"
                f"{body}".encode()
            )
        writer.close()
        await writer.wait_closed()


async def _head(reader: asyncio.StreamReader) -> list[str]:
    try:
        return (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    except asyncio.IncompleteReadError:
        return []


@asynccontextmanager
async def running(
    answer: Callable[[dict[str, object]], tuple[int, str]],
) -> AsyncIterator[FakeServer]:
    """The server, on a free port."""
    fake = FakeServer(answer)
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    fake.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield fake
    # Connections end with their client, and only then does their handler.
    await asyncio.gather(*fake.handlers)
