"""Unpacks bodies that come compressed, never to more than a body may have."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.errors import InvalidRequest, RequestTooLarge

ENCODINGS = ("gzip", "deflate")

_OF_REQUEST = (b"content-encoding", b"content-length")
_GZIP_BITS, _ZLIB_BITS, _RAW_BITS = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


class ContentEncodingMiddleware:
    """Unpacks a body of `content-encoding` gzip or deflate as it comes.

    Reading it raises HTTPException 415 for another encoding, or several; RequestTooLarge as soon as
    more than `max_bytes` have come out, so that a few bytes that stand for many cost no more than
    those; InvalidRequest for what is not of its encoding.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: Callable[[Scope], int]) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = Headers(scope=scope).getlist("content-encoding") if scope["type"] == "http" else []
        encoding = ", ".join(given).strip().lower()
        if encoding in ("", "identity"):
            await self._app(scope, receive, send)
            return
        unpacking = _Unpacking(encoding.removeprefix("x-"), self._max_bytes(scope))

        async def unpacked_receive() -> Message:
            # What unpacks to nothing yet is no message: one with an empty body would do no harm,
            # but each would cost the reader a turn.
            while True:
                message = await receive()
                if message["type"] != "http.request" or unpacking.is_over:
                    return message
                more = message.get("more_body", False)
                body = unpacking.next(message.get("body", b""), more=more)
                if body or not more:
                    return {**message, "body": body}

        headers = [(name, value) for name, value in scope["headers"] if name not in _OF_REQUEST]
        await self._app({**scope, "headers": headers}, unpacked_receive, send)


class _Unpacking:
    """One body under way."""

    def __init__(self, encoding: str, max_bytes: int) -> None:
        self._encoding = encoding
        self._max_bytes = max_bytes
        self._left = max_bytes
        self._start = b""
        self._packed: zlib._Decompress | None = None  # pyright: ignore[reportPrivateUsage]
        self.is_over = False

    def next(self, data: bytes, *, more: bool) -> bytes:
        """What the next bytes stand for. Raises as the middleware does."""
        if self._encoding not in ENCODINGS:
            raise HTTPException(
                415,
                f"content-encoding: must be {' or '.join(ENCODINGS)} or none,"
                f" got {self._encoding[:80]!r}",
                headers={"accept-encoding": ", ".join(ENCODINGS)},
            )
        self.is_over = not more
        if self._packed is None:
            data = self._start + data
            if len(data) < 2 and more:
                self._start = data
                return b""
            self._packed = zlib.decompressobj(_bits(self._encoding, data))
        try:
            body = self._packed.decompress(data, self._left + 1)
        except zlib.error as error:
            raise InvalidRequest(f"the body is not {self._encoding}: {error}") from error
        if len(body) > self._left:
            raise RequestTooLarge(f"the body unpacks to over {self._max_bytes} bytes, the limit")
        self._left -= len(body)
        if self._packed.unused_data:
            raise InvalidRequest(f"the body goes on after its {self._encoding} data")
        if not more and not self._packed.eof:
            raise InvalidRequest(f"the body ends before its {self._encoding} data does")
        return body


def _bits(encoding: str, start: bytes) -> int:
    """zlib's window bits. `deflate` is zlib's format, but some send it without its header."""
    if encoding == "gzip":
        return _GZIP_BITS
    has_header = len(start) >= 2 and start[0] & 15 == 8 and int.from_bytes(start[:2]) % 31 == 0
    return _ZLIB_BITS if has_header else _RAW_BITS
