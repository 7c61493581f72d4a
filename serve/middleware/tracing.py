"""Gives every request that asks for work a trace, and says in the answer which."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.middleware.request_id import STATE_KEY
from serve.tracing.recorder import Recorder, RequestTrace

TRACE_KEY = "trace"
TRACE_ID_HEADER = "x-trace-id"
RESPONSE_HEADER = "traceresponse"

_TRACED_METHOD = "POST"

_MAX_CHARS = 256
"""Of what a client says of itself: traces are kept."""


class TracingMiddleware:
    """Puts a `RequestTrace` into `request.state.trace` of what is posted.

    Its root lasts until the last byte of the answer is handed to the server.
    """

    def __init__(self, app: ASGIApp, *, recorder: Recorder) -> None:
        self._app = app
        self._recorder = recorder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _is_traced(scope):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        trace = self._recorder.begin(_TRACED_METHOD, headers.get("traceparent"))
        state = scope.setdefault("state", {})
        state[TRACE_KEY] = trace
        attributes = trace.root.attributes
        attributes |= {
            "http.request.method": scope["method"],
            "url.path": scope["path"][:_MAX_CHARS],
            "url.scheme": scope["scheme"],
            "server.address": headers.get("host", "")[:_MAX_CHARS],
            "user_agent.original": headers.get("user-agent", "")[:_MAX_CHARS],
            "sluice.request_id": state.get(STATE_KEY, ""),
        }

        async def traced_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                status: int = message["status"]
                attributes["http.response.status_code"] = status
                if status >= 500:
                    trace.root.error = trace.root.error or f"status {status}"
                out = MutableHeaders(scope=message)
                out[TRACE_ID_HEADER] = trace.trace_id
                out[RESPONSE_HEADER] = trace.response_header
            await send(message)

        try:
            await self._app(scope, receive, traced_send)
        finally:
            # A path that is none of ours names no span: a client could make up any number of them.
            if route := getattr(scope.get("route"), "path", None):
                trace.root.name = f"{_TRACED_METHOD} {route}"
                attributes["http.route"] = route
            self._recorder.end(trace)


def record_outcome(scope: Scope, outcome: str) -> None:
    """Say in the request's trace, if it has one, what became of it, where nothing is said yet."""
    trace: RequestTrace | None = scope.get("state", {}).get(TRACE_KEY)
    if trace is not None:
        trace.root.attributes.setdefault("sluice.outcome", outcome)


def _is_traced(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["method"] == _TRACED_METHOD
