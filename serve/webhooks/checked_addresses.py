"""Requests to targets of clients' choosing: to addresses that were checked, and to no others."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

import httpx

from serve.webhooks.reach import Address, parse, refusal
from serve.webhooks.target import Target

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""All addresses of a host, for a port. Raises OSError."""

_MAX_ADDRESSES = 4
"""That are tried one after the other, where nothing listens at the first."""
_RESOLVING = 32

_NO_HEADERS: Mapping[str, str] = {}


class NotReached(Exception):
    """There is no address that may be asked; the message says why."""


class CheckedAddresses:
    """What targets stand for, as far as they may be reached."""

    def __init__(self, *, allow_private: bool, resolve: Resolve | None = None) -> None:
        self._allow_private = allow_private
        self._resolve = resolve or SystemResolver()

    async def of(self, target: Target) -> Sequence[Address]:
        """Those to try, in order. Raises NotReached if one of all may not be reached: a name of
        both kinds is somebody's trick."""
        try:
            is_name = target.address is None
            texts = await self._resolve(target.host, target.port) if is_name else [target.host]
            found = [parse(text) for text in dict.fromkeys(texts)]
        except (OSError, UnicodeError, ValueError) as error:
            raise NotReached(f"{target.host} cannot be resolved: {short(error)}") from error
        for address in found:
            if (why := refusal(address, allow_private=self._allow_private)) is not None:
                raise NotReached(f"{target.host} may not be reached: {why}")
        if not found:
            raise NotReached(f"{target.host} has no address")
        return found[:_MAX_ADDRESSES]


class SystemResolver:
    """The system's, in threads of its own: names of clients that hang take nobody else's."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_RESOLVING, thread_name_prefix="checked-names")

    async def __call__(self, host: str, port: int) -> list[str]:
        ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        return [str(place[0]) for *_, place in found]


@asynccontextmanager
async def asking(
    method: str,
    target: Target,
    address: Address,
    *,
    context: ssl.SSLContext,
    timeout: httpx.Timeout,
    headers: Mapping[str, str] = _NO_HEADERS,
    content: bytes | None = None,
) -> AsyncGenerator[httpx.Response]:
    """The answer of `target` at `address`, its body not read yet. Follows no redirect, uses no
    proxy. Raises httpx.HTTPError, httpx.InvalidURL."""
    url = httpx.URL(
        scheme=target.scheme,
        host=str(address),
        port=target.port,
        raw_path=target.path.encode("ascii"),
    )
    # The name is asked for, and its certificate checked, though the URL has the address. One client
    # per attempt, as connections to one address under two names must not be shared.
    async with httpx.AsyncClient(
        verify=context, trust_env=False, follow_redirects=False, timeout=timeout
    ) as client:
        request = client.build_request(
            method,
            url,
            headers={**headers, "host": target.netloc, "accept-encoding": "identity"},
            content=content,
            extensions={"sni_hostname": target.host},
        )
        answer = await client.send(request, stream=True)
        try:
            yield answer
        finally:
            await answer.aclose()


def short(error: BaseException | None) -> str:
    """Its text, cut."""
    text = str(error) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}…"
