"""CORS: which pages of other origins may read answers; starlette's, with errors in our shape."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from pipelines.errors import InvalidRequest
from serve.error_responses import error_response
from serve.settings.sections import CorsConfig

_METHODS = ("DELETE", "GET", "HEAD", "POST")

_READABLE = (
    "content-range",
    "etag",
    "idempotent-replayed",
    "location",
    "preference-applied",
    "retry-after",
    "retry-after-ms",
    "server-timing",
    "traceresponse",
    "x-request-id",
    "x-should-retry",
    "x-sluice-cache",
    "x-trace-id",
)
"""Headers of answers that a page may read beside those that it always may."""


class CorsMiddleware(CORSMiddleware):
    """Lets pages of `config.allow_origins` use every route, without cookies: there are none."""

    def __init__(self, app: ASGIApp, *, config: CorsConfig) -> None:
        super().__init__(
            app,
            allow_origins=config.allow_origins,
            allow_methods=_METHODS,
            allow_headers=("*",),
            expose_headers=_READABLE,
            max_age=config.max_age_s,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answers a browser that asks before it sends; a refusal says what `cors` allows."""
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        refusal = error_response(InvalidRequest(bytes(response.body).decode()))
        for name in ("vary", "access-control-allow-origin", "access-control-allow-methods"):
            if name in response.headers:
                refusal.headers[name] = response.headers[name]
        return refusal
