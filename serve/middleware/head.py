"""HEAD wherever GET is: answered as GET is, without the body (RFC 9110, section 9.3.2)."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

IS_HEAD = "is_head"
"""In `request.state`: nobody will read the body."""


class HeadMiddleware:
    """Turns HEAD into GET for what is inside it, and leaves the answer's body out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        scope = {**scope, "method": "GET"}
        scope.setdefault("state", {})[IS_HEAD] = True
        await self._app(scope, receive, send_head)
