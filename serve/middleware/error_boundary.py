"""The last resort: whatever still escapes becomes an answer in the API's error shape."""

from __future__ import annotations

import logging

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.errors import SluiceError
from serve.error_responses import error_response, internal_error_response
from serve.errors import CLIENT_GONE_OUTCOME, ClientGone, error_code
from serve.middleware.request_id import STATE_KEY
from serve.middleware.tracing import record_outcome

CLIENT_GONE = 499
"""Nobody reads it, but metrics and logs count it apart from failures."""

logger = logging.getLogger("ray.serve")


class ErrorBoundaryMiddleware:
    """Answers our errors raised by the middleware inside it, and every unforeseen one with 500.

    After the response has started it can only end the connection, which raising does.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except ClientGone:
            record_outcome(scope, CLIENT_GONE_OUTCOME)
            logger.info("request %s: the client left, nothing goes on for it", _request_id(scope))
            await Response(status_code=CLIENT_GONE)(scope, receive, send)
        except SluiceError as error:
            record_outcome(scope, error_code(error))
            if started:
                raise
            await error_response(error)(scope, receive, send)
        except Exception as error:  # the boundary of the process: a client must get an answer
            record_outcome(scope, error_code(error))
            logger.exception("request %s: unforeseen error", _request_id(scope))
            if started:
                raise
            await internal_error_response()(scope, receive, send)


def _request_id(scope: Scope) -> str:
    return scope.get("state", {}).get(STATE_KEY, "-")
