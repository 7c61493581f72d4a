"""Bounds what comes before a body: headers, and the path with its query.

Serve's proxy takes headers of any size, and passes them on. What is refused here is neither traced
nor logged, so that it costs nothing that stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from pipelines.errors import HeadersTooLarge, UriTooLong
from serve.error_responses import error_response

_HEADER_OVERHEAD = 32
"""Bytes that a header counts beside its own, as in HTTP/2's SETTINGS_MAX_HEADER_LIST_SIZE, so that
a great many tiny ones are not free (RFC 9113, section 6.5.2)."""


class HeadLimitMiddleware:
    """Answers 431 for headers, and 414 for a path with its query, of more than `max_bytes`."""

    def __init__(self, app: ASGIApp, *, max_bytes: Callable[[], int]) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        max_bytes = self._max_bytes()
        problem: HeadersTooLarge | UriTooLong | None = None
        if _target_bytes(scope) > max_bytes:
            problem = UriTooLong(f"path and query are over {max_bytes} bytes, the limit here")
        elif header_bytes(scope["headers"]) > max_bytes:
            problem = HeadersTooLarge(f"the headers are over {max_bytes} bytes, the limit here")
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await error_response(problem)(scope, receive, send)


def header_bytes(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """Bytes of these headers as they are counted."""
    return sum(len(name) + len(value) + _HEADER_OVERHEAD for name, value in headers)


def _target_bytes(scope: Scope) -> int:
    return len(scope.get("raw_path") or scope["path"].encode()) + len(scope["query_string"])
