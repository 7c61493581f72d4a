"""Middleware of the ingress, outside of all other: a client that leaves, as Ray Serve tells of it.

When a client leaves, Serve cancels the calls of its request. Where that is the one that brings the
next message of it, an error of Ray's comes instead of ASGI's `http.disconnect`.
"""

from __future__ import annotations

from ray.exceptions import TaskCancelledError
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class LeavingMiddleware:
    """Tells the application of every client that leaves in ASGI's words."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def received() -> Message:
            try:
                return await receive()
            except TaskCancelledError:
                return {"type": "http.disconnect"}

        await self._app(scope, received if scope["type"] == "http" else receive, send)
