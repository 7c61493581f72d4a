"""WebhookPost: one attempt to send a message, to an address that was checked and to no other."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial

import httpx

from serve.webhooks.reach import Address, parse, refusal
from serve.webhooks.target import Target

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""All addresses of a host, for a port. Raises OSError."""

_MAX_ADDRESSES = 4
"""That are tried one after the other, where nothing listens at the first."""
_RESOLVING = 32
_MAX_ANSWER_BYTES = 4096
_ANSWER_S = 1.0
"""Of an answer's body, which nobody reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The receiver's answer, of which nothing but this is kept."""

    status: int
    retry_after_s: float | None = None

    @property
    def is_ok(self) -> bool:
        return 200 <= self.status < 300


class NotSent(Exception):
    """There was no answer; the message says why."""


class WebhookPost:
    """Resolves a name, refuses what it may not reach, and posts to one of these very addresses:
    what the name stands for a moment later does not matter. Follows no redirect, uses no proxy."""

    def __init__(
        self,
        *,
        timeout_s: float,
        allow_private: bool,
        resolve: Resolve | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._allow_private = allow_private
        self._resolve = resolve or SystemResolver()
        # SSL_CERT_FILE and SSL_CERT_DIR name other authorities, as everywhere.
        self._context = context or httpx.create_ssl_context()

    async def send(self, target: Target, headers: Mapping[str, str], body: bytes) -> Answered:
        """Raises NotSent."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._send(target, headers, body)
        except TimeoutError:
            raise NotSent(f"no answer within {self._timeout_s:g} s") from None

    async def _send(self, target: Target, headers: Mapping[str, str], body: bytes) -> Answered:
        trouble: httpx.TransportError | None = None
        addresses = (await self._addresses(target))[:_MAX_ADDRESSES]
        # So that one which swallows packets leaves time for the others.
        timeout = httpx.Timeout(self._timeout_s, connect=self._timeout_s / len(addresses))
        for address in addresses:
            try:
                return await self._post(target, address, headers, body, timeout)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                trouble = error
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise NotSent(f"the connection failed: {_short(error)}") from error
        raise NotSent(f"cannot connect: {_short(trouble)}") from trouble

    async def _addresses(self, target: Target) -> list[Address]:
        """All that the host stands for. Raises NotSent if one of them may not be reached: a name
        of both kinds is somebody's trick."""
        try:
            is_name = target.address is None
            texts = await self._resolve(target.host, target.port) if is_name else [target.host]
            found = [parse(text) for text in dict.fromkeys(texts)]
        except (OSError, UnicodeError, ValueError) as error:
            raise NotSent(f"{target.host} cannot be resolved: {_short(error)}") from error
        for address in found:
            if (why := refusal(address, allow_private=self._allow_private)) is not None:
                raise NotSent(f"{target.host} may not be reached: {why}")
        if not found:
            raise NotSent(f"{target.host} has no address")
        return found

    async def _post(
        self,
        target: Target,
        address: Address,
        headers: Mapping[str, str],
        body: bytes,
        timeout: httpx.Timeout,
    ) -> Answered:
        url = httpx.URL(
            scheme=target.scheme,
            host=str(address),
            port=target.port,
            raw_path=target.path.encode("ascii"),
        )
        # The name is asked for, and its certificate checked, though the URL has the address. One
        # client per attempt, as connections to one address under two names must not be shared.
        async with httpx.AsyncClient(
            verify=self._context, trust_env=False, follow_redirects=False, timeout=timeout
        ) as client:
            request = client.build_request(
                "POST",
                url,
                headers={**headers, "host": target.netloc, "accept-encoding": "identity"},
                content=body,
                extensions={"sni_hostname": target.host},
            )
            answer = await client.send(request, stream=True)
            try:
                await _read_a_little(answer)
            finally:
                await answer.aclose()
        return Answered(
            status=answer.status_code,
            retry_after_s=retry_after_s(answer.headers.get("retry-after"), datetime.now(UTC)),
        )


class SystemResolver:
    """The system's, in threads of its own: names of clients that hang take nobody else's."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_RESOLVING, thread_name_prefix="webhook-names")

    async def __call__(self, host: str, port: int) -> list[str]:
        ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        return [str(place[0]) for *_, place in found]


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Seconds that the header asks for, as a number or a date; None if it says nothing sensible."""
    if header is None:
        return None
    if header.strip().isdecimal() and header.isascii():
        return float(header.strip()[:12])
    try:
        at = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds())


async def _read_a_little(answer: httpx.Response) -> None:
    """Lets a small answer end well. Its status has come: whatever else it does changes nothing."""
    seen = 0
    with contextlib.suppress(httpx.HTTPError, TimeoutError):
        async with asyncio.timeout(_ANSWER_S):
            async for chunk in answer.aiter_raw():
                seen += len(chunk)
                if seen > _MAX_ANSWER_BYTES:
                    return


def _short(error: BaseException | None) -> str:
    text = str(error) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}…"
