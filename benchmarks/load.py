"""Load over HTTP: a keep-alive client that costs little, a closed loop, and an open loop.

The client shares its cores with the servers, so it is asyncio streams and nothing else: some 0.1 ms
of CPU for a request. It knows as much of HTTP/1.1 as Ray Serve's proxy answers with.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple
from urllib.parse import urlsplit

GENERATE = "/v1/images/generations"

_MAX_HEADER_BYTES = 64 * 1024


class Answer(NamedTuple):
    """`headers` by lower-case name."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpClient:
    """Posts JSON to one server over kept connections, as many as are needed; a context manager."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._host, self._port = parts.hostname, parts.port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(
        self, path: str, body: Mapping[str, object], headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Raises OSError, EOFError or ValueError when the server does not answer HTTP."""
        data = json.dumps(body).encode()
        more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(data)}\r\n{more}\r\n"
        )
        reader, writer = await self._connection()
        try:
            writer.write(head.encode() + data)
            answer = await _read_answer(reader)
        except BaseException:  # whatever it was, the connection is in no state to be used again
            writer.close()
            raise
        self._idle.append((reader, writer))
        return answer

    async def __aenter__(self) -> HttpClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for _, writer in self._idle:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self._host, self._port, limit=_MAX_HEADER_BYTES)


async def _read_answer(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status_line, *lines = head.rstrip("\r\n").split("\r\n")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    if "content-length" not in headers:
        raise ValueError(f"the answer has no content-length: {status_line}")
    body = await reader.readexactly(int(headers["content-length"]))
    return Answer(int(status_line.split()[1]), headers, body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One request: when it was sent and answered (seconds of the loop's clock), and what came back.

    `index` is its place in the order of sending. `status` is 0 when nothing did. `images` counts
    the pictures of the answer.
    """

    index: int
    sent_s: float
    answered_s: float
    status: int
    headers: Mapping[str, str]
    images: int

    @property
    def latency_s(self) -> float:
        return self.answered_s - self.sent_s


ROUNDS = 3
"""How often each place of a closed loop is used at least; the first time is its ramp."""


async def closed_loop(
    client: HttpClient, bodies: Iterator[Mapping[str, object]], *, in_flight: int, seconds: float
) -> list[Outcome]:
    """Keep `in_flight` requests running for `seconds`, then let the last ones end.

    Longer where that is needed for `ROUNDS` times `in_flight` answers. Times count from the start.
    """
    began = time.perf_counter()
    numbers = itertools.count()
    outcomes: list[Outcome] = []

    async def worker() -> None:
        while time.perf_counter() - began < seconds or len(outcomes) < ROUNDS * in_flight:
            outcomes.append(await _send(client, next(bodies), next(numbers), began=began))

    await asyncio.gather(*(worker() for _ in range(in_flight)))
    return outcomes


async def open_loop(
    client: HttpClient,
    send_at_s: Sequence[float],
    body: Callable[[int, float], Mapping[str, object]],
    *,
    on_answer: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Send request i at `send_at_s[i]` after the start, whatever became of those before it.

    `body` makes it, given i and the seconds that the client is late; `on_answer` is called as each
    is answered. Latencies count from when a request was due, not from when this client managed to
    send it.
    """
    began = time.perf_counter()

    async def one(index: int, due_s: float) -> Outcome:
        await asyncio.sleep(due_s - (time.perf_counter() - began))
        late_s = time.perf_counter() - began - due_s
        outcome = await _send(client, body(index, late_s), index, began=began, sent_s=due_s)
        on_answer(outcome)
        return outcome

    return list(await asyncio.gather(*(one(*item) for item in enumerate(send_at_s))))


async def _send(
    client: HttpClient,
    body: Mapping[str, object],
    index: int,
    *,
    began: float,
    sent_s: float | None = None,
) -> Outcome:
    if sent_s is None:
        sent_s = time.perf_counter() - began
    try:
        answer = await client.post(GENERATE, body)
    except (OSError, EOFError, ValueError):
        answer = Answer(0, {}, b"")
    return Outcome(
        index=index,
        sent_s=sent_s,
        answered_s=time.perf_counter() - began,
        status=answer.status,
        headers=answer.headers,
        images=answer.body.count(b'"b64_json"') if answer.status == 200 else 0,
    )


def steady_rate(
    outcomes: Sequence[Outcome],
    *,
    in_flight: int,
    seconds: float,
    weight: Callable[[Outcome], float] = lambda outcome: outcome.images,
) -> float:
    """What a closed loop served per second, between its ramp and its drain: images, or `weight`.

    From the last of the first `in_flight` answers to the last one within `seconds`, so that both
    ends are ends of a batch.
    """
    answered = sorted(outcomes, key=lambda outcome: outcome.answered_s)
    start_s = answered[in_flight - 1].answered_s
    end_s = max(seconds, answered[ROUNDS * in_flight - 1].answered_s)
    counted = [outcome for outcome in answered if start_s < outcome.answered_s <= end_s]
    return sum(map(weight, counted)) / (counted[-1].answered_s - start_s)
