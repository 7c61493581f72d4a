"""Middleware of a few lines each, and the one list that gives their order."""

from __future__ import annotations

from collections.abc import Callable

from starlette.middleware import Middleware
from starlette.types import Scope

from serve.middleware.body_limit import BodyLimitMiddleware
from serve.middleware.body_time import BodyTimeMiddleware
from serve.middleware.content_encoding import ContentEncodingMiddleware
from serve.middleware.cors import CorsMiddleware
from serve.middleware.error_boundary import ErrorBoundaryMiddleware
from serve.middleware.error_page import ErrorPageMiddleware
from serve.middleware.forwarded import ForwardedMiddleware
from serve.middleware.head import HeadMiddleware
from serve.middleware.head_limit import HeadLimitMiddleware
from serve.middleware.request_id import RequestIdMiddleware
from serve.middleware.timeout import TimeoutMiddleware
from serve.middleware.tracing import TracingMiddleware
from serve.settings.settings import Limits, Settings
from serve.tracing.recorder import Recorder


def middleware(
    settings: Settings,
    limits: Callable[[], Limits],
    recorder: Recorder,
    *,
    echo_request_id: bool,
    body_bytes: Callable[[str, Limits], int],
) -> list[Middleware]:
    """All middleware, outermost first: an error of any inner one is answered, with its id.

    `limits` gives those of the moment, and `body_bytes` how large the body for a path may be.
    """

    def max_body_bytes(scope: Scope) -> int:
        return body_bytes(scope["path"].removeprefix(scope.get("root_path", "")), limits())

    cors = [Middleware(CorsMiddleware, config=settings.cors)] if settings.cors.allow_origins else []
    return [
        Middleware(RequestIdMiddleware, echo=echo_request_id),
        *cors,
        Middleware(HeadMiddleware),
        Middleware(HeadLimitMiddleware, max_bytes=lambda: limits().max_header_bytes),
        Middleware(ForwardedMiddleware, trusted=settings.trusted_proxies),
        Middleware(ErrorPageMiddleware, tracing=settings.tracing),
        Middleware(TracingMiddleware, recorder=recorder),
        Middleware(ErrorBoundaryMiddleware),
        Middleware(
            BodyTimeMiddleware,
            seconds=lambda: limits().body_timeout_s,
            max_unread=lambda: limits().max_unread_bodies,
        ),
        Middleware(BodyLimitMiddleware, max_bytes=max_body_bytes),
        Middleware(ContentEncodingMiddleware, max_bytes=max_body_bytes),
        Middleware(TimeoutMiddleware, seconds=lambda: limits().request_timeout_s),
    ]
