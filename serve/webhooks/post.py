"""WebhookPost: one attempt to send a message, to an address that was checked and to no other."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from serve.webhooks.checked_addresses import (
    CheckedAddresses,
    NotReached,
    Resolve,
    asking,
    short,
)
from serve.webhooks.reach import Address
from serve.webhooks.target import Target

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
        self._addresses = CheckedAddresses(allow_private=allow_private, resolve=resolve)
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
        try:
            addresses = await self._addresses.of(target)
        except NotReached as error:
            raise NotSent(str(error)) from error
        # So that one which swallows packets leaves time for the others.
        timeout = httpx.Timeout(self._timeout_s, connect=self._timeout_s / len(addresses))
        for address in addresses:
            try:
                return await self._post(target, address, headers, body, timeout)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                trouble = error
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise NotSent(f"the connection failed: {short(error)}") from error
        raise NotSent(f"cannot connect: {short(trouble)}") from trouble

    async def _post(
        self,
        target: Target,
        address: Address,
        headers: Mapping[str, str],
        body: bytes,
        timeout: httpx.Timeout,
    ) -> Answered:
        async with asking(
            "POST",
            target,
            address,
            context=self._context,
            timeout=timeout,
            headers=headers,
            content=body,
        ) as answer:
            await _read_a_little(answer)
        return Answered(
            status=answer.status_code,
            retry_after_s=retry_after_s(answer.headers.get("retry-after"), datetime.now(UTC)),
        )


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
