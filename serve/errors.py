"""The one table from our errors to HTTP: status, type, code and headers, in OpenAI's shape.

Every failure leaves the server as `{"error": {"message", "type", "param", "code", ...}}`, the
framework's own errors (no such route, wrong method) included. Knows nothing of what raised them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from pipelines import errors

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"
OVERLOADED = "overloaded_error"


class ErrorRule(NamedTuple):
    """How one kind of error leaves the server.

    `should_retry` becomes the header `x-should-retry`, which the OpenAI clients obey; None leaves
    them to their default (they repeat 408, 409, 429 and 5xx).
    """

    status: int
    type: str
    code: str
    should_retry: bool | None = None


ERROR_TABLE: Mapping[type[errors.SluiceError], ErrorRule] = {
    errors.InvalidRequest: ErrorRule(400, INVALID_REQUEST, "invalid_value"),
    errors.UnsupportedFeature: ErrorRule(400, INVALID_REQUEST, "unsupported_feature"),
    errors.RequestTooLarge: ErrorRule(413, INVALID_REQUEST, "request_too_large"),
    errors.ModelNotFound: ErrorRule(404, INVALID_REQUEST, "model_not_found"),
    errors.FileNotStored: ErrorRule(404, INVALID_REQUEST, "file_not_found"),
    errors.TraceNotKept: ErrorRule(404, INVALID_REQUEST, "trace_not_found"),
    errors.ContentPolicyViolation: ErrorRule(400, INVALID_REQUEST, "content_policy_violation"),
    # The same seed degenerates again, and a request without one has cost a whole run already.
    errors.DegenerateImage: ErrorRule(500, SERVER_ERROR, "degenerate_image", should_retry=False),
    errors.Overloaded: ErrorRule(429, OVERLOADED, "overloaded", should_retry=True),
    # Not to be repeated where no time will do: `_rule_for`.
    errors.DeadlineUnreachable: ErrorRule(
        429, OVERLOADED, "deadline_unreachable", should_retry=True
    ),
    errors.NotReady: ErrorRule(503, SERVER_ERROR, "not_ready", should_retry=True),
    # A repeated run would take as long and end in the same way.
    errors.RequestTimeout: ErrorRule(504, SERVER_ERROR, "request_timeout", should_retry=False),
    errors.BodyTimeout: ErrorRule(408, INVALID_REQUEST, "body_timeout"),
    errors.HeadersTooLarge: ErrorRule(431, INVALID_REQUEST, "headers_too_large"),
    errors.UriTooLong: ErrorRule(414, INVALID_REQUEST, "uri_too_long"),
    errors.StageFailed: ErrorRule(500, SERVER_ERROR, "stage_failed"),
    errors.StageLost: ErrorRule(500, SERVER_ERROR, "stage_failed"),
    errors.CheckpointError: ErrorRule(500, SERVER_ERROR, "checkpoint_error", should_retry=False),
    errors.ConfigurationError: ErrorRule(
        500, SERVER_ERROR, "configuration_error", should_retry=False
    ),
    errors.SluiceError: ErrorRule(500, SERVER_ERROR, "internal_error", should_retry=False),
}

HTTP_CODES = {
    404: "not_found",
    405: "method_not_allowed",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
}
"""Codes of the framework's own errors, by status."""

_POLICY_FIELDS = ("stage", "category", "score", "threshold", "image_index")
_NOT_READY_RETRY_S = 1.0


class ApiResponse(Response):
    """JSON in pure ASCII: a lone surrogate echoed from a request cannot break the encoding."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def error_response(error: errors.SluiceError) -> Response:
    """The response for one of our own errors."""
    return _response(
        _rule_for(error),
        error.message,
        param=getattr(error, "param", None),
        extras=_extras(error),
        headers=_headers(error),
    )


def error_code(error: BaseException) -> str:
    """The code that `error` leaves the server with; "internal_error" if nobody foresaw it."""
    kind = type(error) if isinstance(error, errors.SluiceError) else errors.SluiceError
    return ERROR_TABLE[kind].code


def internal_error_response() -> Response:
    """The response for an error that nobody foresaw; its text stays in the server's log."""
    return _response(
        ERROR_TABLE[errors.SluiceError],
        "the server failed in a way it did not foresee; the log names it by this x-request-id",
    )


def install_error_handlers(app: FastAPI) -> None:
    """Give `app` this module's answers for our errors and for the framework's own."""
    app.add_exception_handler(errors.SluiceError, _on_sluice_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)


def _response(
    rule: ErrorRule,
    message: str,
    *,
    param: str | None = None,
    extras: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    body = {"message": message, "type": rule.type, "param": param, "code": rule.code}
    sent = dict(headers or {})
    if rule.should_retry is not None:
        sent["x-should-retry"] = "true" if rule.should_retry else "false"
    return ApiResponse({"error": {**body, **(extras or {})}}, rule.status, headers=sent)


def _rule_for(error: errors.SluiceError) -> ErrorRule:
    rule = ERROR_TABLE[type(error)]
    if isinstance(error, errors.DeadlineUnreachable) and error.retry_after_s is None:
        return rule._replace(should_retry=False)
    return rule


def _extras(error: errors.SluiceError) -> dict[str, Any]:
    """What the body says beside message, type, param and code."""
    match error:
        case errors.ContentPolicyViolation():
            return {
                name: error.fields[name]
                for name in _POLICY_FIELDS
                if error.fields[name] is not None
            }
        case errors.DeadlineUnreachable():
            return {"earliest_deadline_ms": in_milliseconds(error.earliest_s)}
        case _:
            return {}


def in_milliseconds(seconds: float) -> int:
    """Whole milliseconds, rounded up and at least 1: a time that is waited or promised."""
    return max(1, math.ceil(seconds * 1000))


def _headers(error: errors.SluiceError) -> dict[str, str]:
    if isinstance(error, errors.Overloaded):
        return {} if error.retry_after_s is None else _retry_after(error.retry_after_s)
    if isinstance(error, errors.NotReady):
        return _retry_after(_NOT_READY_RETRY_S)
    if isinstance(error, errors.BodyTimeout):
        return {"connection": "close"}  # the rest of its body would be waited for
    return {}


def _retry_after(seconds: float) -> dict[str, str]:
    milliseconds = in_milliseconds(seconds)
    return {
        "retry-after": str(math.ceil(milliseconds / 1000)),
        "retry-after-ms": str(milliseconds),
    }


async def _on_sluice_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, errors.SluiceError)
    return error_response(error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = str(error.detail)
    if error.status_code == 404:
        message = f"there is nothing at {request.url.path}; the routes are listed at /docs"
    elif error.status_code == 405:
        message = f"{request.method} is not allowed at {request.url.path}"
    kind = INVALID_REQUEST if error.status_code < 500 else SERVER_ERROR
    rule = ErrorRule(error.status_code, kind, HTTP_CODES.get(error.status_code, "http_error"))
    return _response(rule, message, headers=error.headers)


async def _on_validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = str(first["loc"][-1])
    return error_response(errors.InvalidRequest(f"{param}: {first['msg']}", param=param))
