"""How the application answers errors of its routes: ours, and the framework's own."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pipelines import errors
from serve.api.complaints import complaint
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
        if methods := _methods_at(request):
            return http_error_response(405, message, {"allow": ", ".join(methods)})
    return http_error_response(error.status_code, message, error.headers)


def _methods_at(request: Request) -> list[str]:
    """All methods of the path, as the API's description has them; the framework names those of its
    first route alone."""
    path = getattr(request.scope.get("route"), "path", None)
    return sorted(map(str.upper, request.app.openapi()["paths"].get(path, ())))


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return await _on_sluice_error(request, validation_problem(error))


def validation_problem(error: RequestValidationError) -> errors.InvalidRequest:
    """The same as one of our errors, which tells of all parameters."""
    found: dict[str, str] = {}
    for each in error.errors():
        found.setdefault(str(each["loc"][-1]), complaint(each))
    said = [f"{param}: {wrong}" for param, wrong in found.items()]
    return errors.InvalidRequest("; ".join(said), param=next(iter(found)))
