"""The one table from our errors to HTTP: status, type and code, in OpenAI's words.

Knows nothing of what raised them, nor of the framework that answers: `serve.error_responses`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

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
    errors.JobNotFound: ErrorRule(404, INVALID_REQUEST, "job_not_found"),
    errors.DeliveryNotFound: ErrorRule(404, INVALID_REQUEST, "delivery_not_found"),
    errors.JobConflict: ErrorRule(409, INVALID_REQUEST, "job_conflict", should_retry=False),
    errors.IdempotencyKeyReused: ErrorRule(
        409, INVALID_REQUEST, "idempotency_key_reused", should_retry=False
    ),
    errors.StoreUnavailable: ErrorRule(503, SERVER_ERROR, "store_unavailable", should_retry=True),
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


class ClientGone(Exception):
    """The client left before its answer; there is nobody to tell."""


CLIENT_GONE_OUTCOME = "client_gone"
"""In place of a code, which nobody would read."""


def error_code(error: BaseException) -> str:
    """The code that `error` leaves the server with; "internal_error" if nobody foresaw it."""
    kind = type(error) if isinstance(error, errors.SluiceError) else errors.SluiceError
    return ERROR_TABLE[kind].code


def http_error_code(status: int) -> str:
    """The code of an error of the framework's own."""
    return HTTP_CODES.get(status, "http_error")


def in_milliseconds(seconds: float) -> int:
    """Whole milliseconds, rounded up and at least 1: a time that is waited or promised."""
    return max(1, math.ceil(seconds * 1000))
