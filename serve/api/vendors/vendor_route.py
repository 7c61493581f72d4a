"""VendorRoute: a route whose errors are in a vendor's words as well as in ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ClassVar

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pipelines.errors import SluiceError
from serve.api.error_handlers import validation_problem
from serve.error_responses import ApiResponse, error_response, http_error_response
from serve.errors import error_code, http_error_code
from serve.middleware.tracing import record_outcome

Words = Callable[[int, Mapping[str, Any]], dict[str, Any]]
"""(status, our error) -> what the vendor's client looks for beside `error`."""

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class VendorRoute(APIRoute):
    """Adds `words` to the body of each error that the route raises. What the middleware refuses has
    our words alone."""

    words: ClassVar[Words]

    def get_route_handler(self) -> Handler:
        handler = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except RequestValidationError as error:
                problem: SluiceError = validation_problem(error)
            except SluiceError as error:
                problem = error
            except HTTPException as error:  # of the framework's own: 415
                record_outcome(request.scope, http_error_code(error.status_code))
                return self._in_words(
                    http_error_response(error.status_code, str(error.detail), error.headers)
                )
            record_outcome(request.scope, error_code(problem))
            return self._in_words(error_response(problem))

        return answer

    def _in_words(self, answer: Response) -> Response:
        body: dict[str, Any] = json.loads(bytes(answer.body))
        headers = {
            name: value
            for name, value in answer.headers.items()
            if name not in ("content-length", "content-type")
        }
        said = type(self).words(answer.status_code, body["error"])
        return ApiResponse({**body, **said}, answer.status_code, headers=headers)
