"""How the application answers errors of its routes: ours, and the framework's own."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pipelines import errors
from serve.error_responses import error_response, http_error_response
from serve.errors import error_code, http_error_code
from serve.middleware.tracing import record_outcome


def install_error_handlers(app: FastAPI) -> None:
    """Give `app` the one table's answers for our errors and for the framework's own."""
    app.add_exception_handler(errors.SluiceError, _on_sluice_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)


async def _on_sluice_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.SluiceError)
    record_outcome(request.scope, error_code(error))
    return error_response(error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    record_outcome(request.scope, http_error_code(error.status_code))
    message = str(error.detail)
    if error.status_code == 404:
        message = f"there is nothing at {request.url.path}; the routes are listed at /docs"
    elif error.status_code == 405:
        message = f"{request.method} is not allowed at {request.url.path}"
    return http_error_response(error.status_code, message, error.headers)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = str(first["loc"][-1])
    problem = errors.InvalidRequest(f"{param}: {first['msg']}", param=param)
    return await _on_sluice_error(request, problem)
