"""Errors as responses: status, body and headers, in OpenAI's shape.

Every failure leaves the server as `{"error": {"message", "type", "param", "code", ...}}`.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from pipelines import errors
from serve.errors import (
    ERROR_TABLE,
    INVALID_REQUEST,
    SERVER_ERROR,
    ErrorRule,
    http_error_code,
    in_milliseconds,
)

logger = logging.getLogger("ray.serve")

_POLICY_FIELDS = ("stage", "category", "score", "threshold", "image_index", "picture")
_NOT_READY_RETRY_S = 1.0


class ApiResponse(Response):
    """JSON in pure ASCII: a lone surrogate echoed from a request cannot break the encoding."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def error_response(error: errors.SluiceError) -> Response:
    """The response for one of our own errors."""
    return _response(_rule_for(error), error_body(error), _headers(error))


def error_body(error: errors.SluiceError) -> dict[str, Any]:
    """What a client is told of one of our own errors, in whatever comes after the headers."""
    param = getattr(error, "param", None)
    message = error.message
    if isinstance(error, errors.StoreUnavailable):
        # It says where the store is, which is the operator's to know.
        logger.warning("%s", message)
        message = "jobs can be neither read nor written now, and none is lost; ask again"
    return _body(_rule_for(error), message, param=param, extras=_extras(error))


def internal_error_response() -> Response:
    """The response for an error that nobody foresaw; its text stays in the server's log."""
    return _response(ERROR_TABLE[errors.SluiceError], internal_error_body())


def internal_error_body() -> dict[str, Any]:
    """What a client is told of it."""
    return _body(
        ERROR_TABLE[errors.SluiceError],
        "the server failed in a way it did not foresee; the log names it by this x-request-id",
    )


def http_error_response(
    status: int, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    """The response for an error of the framework's own."""
    kind = INVALID_REQUEST if status < 500 else SERVER_ERROR
    rule = ErrorRule(status, kind, http_error_code(status))
    return _response(rule, _body(rule, message), headers)


def _body(
    rule: ErrorRule,
    message: str,
    *,
    param: str | None = None,
    extras: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    body = {"message": message, "type": rule.type, "param": param, "code": rule.code}
    return {"error": {**body, **(extras or {})}}


def _response(
    rule: ErrorRule, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> Response:
    sent = dict(headers or {})
    if rule.should_retry is not None:
        sent["x-should-retry"] = "true" if rule.should_retry else "false"
    return ApiResponse(body, rule.status, headers=sent)


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


def _headers(error: errors.SluiceError) -> dict[str, str]:
    if isinstance(error, errors.Overloaded):
        return {} if error.retry_after_s is None else _retry_after(error.retry_after_s)
    if isinstance(error, errors.StoreUnavailable):
        return _retry_after(error.retry_after_s)
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
