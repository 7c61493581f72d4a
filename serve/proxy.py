"""Middleware for Ray Serve's own HTTP proxies, which see a request before anything of ours does.

Named by RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve.proxy:middleware in the environment of
every `ray start` (README.md, "Headers and Ray"). It mends what the ingress comes too late for:

- A proxy reads some headers as UTF-8, and answers other bytes with a 500 in plain text.
- It puts the client's `x-request-id` into its log and onto every answer, whatever that is.
- It has a line in its log for each health check.

Imports no settings: a proxy has none.
"""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.access_log import leave_polls_out_of_access_log
from serve.request_id import HEADER, sane_request_id

_HEADER = HEADER.encode()


def middleware() -> list[Middleware]:
    """What each proxy puts around itself. Called in its process, at its start."""
    leave_polls_out_of_access_log()
    return [Middleware(ReadableHeadersMiddleware)]


class ReadableHeadersMiddleware:
    """Makes headers readable as UTF-8, and gives each request one id that is sane."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            scope = {**scope, "headers": readable(scope["headers"])}
        await self._app(scope, receive, send)


def readable(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """These headers, with values that are not UTF-8 read as Latin-1, as HTTP once defined them, and
    with one `x-request-id`."""
    given = [value for name, value in headers if name == _HEADER]
    text = given[0].decode("latin-1") if len(given) == 1 else ""
    others = [(name, _as_utf8(value)) for name, value in headers if name != _HEADER]
    return [*others, (_HEADER, sane_request_id(text).encode())]


def _as_utf8(value: bytes) -> bytes:
    try:
        value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1").encode()
    return value
