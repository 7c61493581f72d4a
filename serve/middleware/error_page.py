"""Errors in words for who opens a page: programs are given the same ones as JSON."""

from __future__ import annotations

import re
from http import HTTPStatus

from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, QueryParams
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.settings.sections import TracingConfig
from serve.tracing.views.error_page import error_page
from serve.tracing.views.page import content_security_policy

PAGES = re.compile(r"/|/traces|/v1/traces/[^/]*")
"""What people open; where there is nothing at all, it is a page, too."""

_NOTHING_HERE = "not_found"
_OF_THE_PAGE = (
    b"content-length",
    b"content-type",
    b"content-security-policy",
    b"cache-control",
)
_HTML = re.compile(r"\s*text/html\s*(?:;[^,]*?)?", re.IGNORECASE)
_NEVER = re.compile(r";\s*q\s*=\s*0(?:\.0*)?\s*(?:;|$)", re.IGNORECASE)
"""A weight of nothing (RFC 9110, 12.4.2)."""


def prefers_page(scope: Scope) -> bool:
    """Whether a page is wanted: by the parameter `format`, or else by the header `accept`."""
    asked = QueryParams(scope["query_string"]).get("format")
    if asked is not None:
        return asked == "html"
    ranges = ",".join(Headers(scope=scope).getlist("accept")).split(",")
    return any(_HTML.fullmatch(each) and not _NEVER.search(each) for each in ranges)


class ErrorPageMiddleware:
    """Makes pages of the errors at `PAGES`, which come as JSON in one piece. `tracing` says what is
    kept, for those who look for what is not."""

    def __init__(self, app: ASGIApp, *, tracing: TracingConfig) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET" or not prefers_page(scope):
            await self._app(scope, receive, send)
            return
        start: Message | None = None

        async def paged_send(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and message["status"] >= 400:
                start = message
            elif start is None:
                await send(message)
            else:
                begun, start = start, None
                await self._answer(scope, receive, send, begun, message)

        await self._app(scope, receive, paged_send)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, start: Message, body: Message
    ) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        error = _error_in(body["body"]) if _is_json(start) else None
        if error is None or not (PAGES.fullmatch(path) or error.code == _NOTHING_HERE):
            await send(start)
            await send(body)
            return
        page = await run_in_threadpool(
            error_page,
            path=path,
            status=HTTPStatus(start["status"]),
            code=error.code,
            message=error.message,
            tracing=self._tracing,
        )
        about = {
            "content-security-policy": f"{content_security_policy()}; frame-ancestors 'none'",
            "cache-control": "no-store",
        }
        answer = HTMLResponse(page, start["status"], headers=about)
        answer.raw_headers += [
            (name, value) for name, value in start["headers"] if name.lower() not in _OF_THE_PAGE
        ]
        await answer(scope, receive, send)


class _Said(BaseModel):
    """The part of an error that a page tells."""

    code: str
    message: str


class _Answer(BaseModel):
    error: _Said


def _error_in(body: bytes) -> _Said | None:
    """What the body says is wrong; None for JSON that tells something else, as readiness does."""
    try:
        return _Answer.model_validate_json(body).error
    except ValidationError:
        return None


def _is_json(start: Message) -> bool:
    return Headers(raw=start["headers"]).get("content-type", "").startswith("application/json")
