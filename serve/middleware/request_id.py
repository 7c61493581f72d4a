"""Gives every request an id: the client's `x-request-id` if it is sane, a new one if not."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.request_id import HEADER, sane_request_id

STATE_KEY = "request_id"


class RequestIdMiddleware:
    """Puts the id into `request.state.request_id` and, with `echo`, into the response.

    Behind Ray Serve `echo` is off: its proxies append the header to every response, and with
    `serve.proxy` in them it is this id.
    """

    def __init__(self, app: ASGIApp, *, echo: bool) -> None:
        self._app = app
        self._echo = echo

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).getlist(HEADER)
        request_id = sane_request_id(given[0] if len(given) == 1 else "")
        scope.setdefault("state", {})[STATE_KEY] = request_id

        async def send_with_id(message: Message) -> None:
            if self._echo and message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)
