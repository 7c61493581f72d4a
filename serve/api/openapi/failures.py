"""What each route answers instead of what it was asked for, as its `responses` in the document.

A route names the causes that can end its requests; status, code, headers and text come from the
error table (`serve/errors.py`) and the errors' own docstrings. A test provokes each of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from pipelines import errors
from serve.errors import ERROR_TABLE, HTTP_CODES, INVALID_REQUEST, OVERLOADED, SERVER_ERROR

Schema = dict[str, Any]
Responses = dict[int | str, dict[str, Any]]
Cause = type[errors.SluiceError] | int
"""One of our errors, or a status that the framework's HTTPException carries."""

# Not for the routes to name: the middleware ends any request for these.
_ANY_REQUEST: tuple[Cause, ...] = (
    errors.RequestTooLarge,  # announced is enough
    errors.UriTooLong,
    errors.HeadersTooLarge,
)

WAITS: tuple[Cause, ...] = (errors.RequestTimeout, errors.SluiceError)
"""A route that waits for others: they may take too long, or fail as nobody foresaw."""

TAKES_PARAMETERS: tuple[Cause, ...] = (errors.InvalidRequest,)

READS_GENERATION: tuple[Cause, ...] = (
    *WAITS,
    errors.InvalidRequest,
    errors.UnsupportedFeature,
    errors.ContentPolicyViolation,
    errors.ModelNotFound,
    errors.BodyTimeout,
    415,
    errors.Overloaded,
    errors.StageFailed,
)
"""A route that reads the body of a generation, and checks it."""

DRAWS: tuple[Cause, ...] = (
    errors.DeadlineUnreachable,
    errors.DegenerateImage,
    errors.CheckpointError,
    errors.NotReady,
)
"""A route that has images drawn."""

OF_JOBS: tuple[Cause, ...] = (*WAITS, errors.JobNotFound, errors.StoreUnavailable)
"""A route that looks into the store of jobs; where there are none, nothing is found."""

KEEPS: tuple[Cause, ...] = (errors.IdempotencyKeyReused, errors.StoreUnavailable)
"""A route that stores a job."""

_STATUS_TEXT: Mapping[int, str] = {
    415: "`content-type` is not JSON, or `content-encoding` neither gzip nor deflate.",
    416: "`range` begins after the end of the file.",
}

_RETRY_AFTER = ("retry-after", "retry-after-ms")
_HEADERS: Mapping[Cause, tuple[str, ...]] = {
    errors.Overloaded: _RETRY_AFTER,
    errors.DeadlineUnreachable: _RETRY_AFTER,
    errors.NotReady: _RETRY_AFTER,
    errors.StoreUnavailable: _RETRY_AFTER,
    errors.BodyTimeout: ("connection",),
    415: ("accept-encoding",),
    416: ("content-range",),
}

HEADERS: Mapping[str, Schema] = {
    "x-request-id": {
        "description": "The request's own, if it had a sane one; logs and traces name it.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
    },
    "x-trace-id": {
        "description": "Of `GET /v1/traces/{trace_id}`.",
        "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
    },
    "traceresponse": {
        "description": "The same, as W3C's trace context has it.",
        "schema": {"type": "string", "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]$"},
    },
    "x-should-retry": {
        "description": "Whether the same request can do better later; OpenAI's clients obey it.",
        "schema": {"type": "string", "enum": ["true", "false"]},
    },
    "retry-after": {
        "description": "Seconds; absent where no time will do.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "retry-after-ms": {
        "description": "The same in milliseconds.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "connection": {
        "description": "`close`: the rest of the body is not waited for.",
        "schema": {"type": "string", "const": "close"},
    },
    "accept-encoding": {
        "description": "What `content-encoding` may be, where that was wrong.",
        "schema": {"type": "string"},
    },
    "content-range": {
        "description": "Which bytes these are, of how many.",
        "required": True,
        "schema": {"type": "string", "pattern": r"^bytes ([0-9]+-[0-9]+|\*)/[0-9]+$"},
    },
}
"""Of answers; the document has them as components."""

ERROR_SCHEMA = "Error"

_NO_WORDS: Mapping[str, Any] = {}


def header_refs(*names: str) -> Schema:
    """`headers` of a response."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def failures(*causes: Cause) -> Responses:
    """`responses` for a route whose requests end by these causes, and by those of all routes."""
    by_status: dict[int, list[Cause]] = {}
    for cause in dict.fromkeys((*causes, *_ANY_REQUEST)):
        by_status.setdefault(_status(cause), []).append(cause)
    return {status: _response(by_status[status]) for status in sorted(by_status)}


def error_schema(words: Mapping[str, Any] = _NO_WORDS) -> Schema:
    """The one shape of all errors: OpenAI's, and what some kinds say besides; `words` stand beside
    it where a vendor's client looks for others."""
    codes = [*(rule.code for rule in ERROR_TABLE.values()), *HTTP_CODES.values()]
    properties: Schema = {
        "message": {"type": "string", "minLength": 1},
        "type": {"enum": [INVALID_REQUEST, SERVER_ERROR, OVERLOADED]},
        "param": {"type": ["string", "null"], "description": "The field at fault, if one is."},
        "code": {"enum": list(dict.fromkeys(codes))},
        "earliest_deadline_ms": {
            "type": "integer",
            "minimum": 1,
            "description": "The shortest `deadline_ms` that could be promised now.",
        },
        "stage": {
            "enum": ["prompt", "image", "picture"],
            "description": "What the content policy refused: `picture` came with the request.",
        },
        "category": {"type": "string", "description": "The policy's category."},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "threshold": {"type": "number", "minimum": 0, "maximum": 1},
        "image_index": {"type": "integer", "minimum": 0, "description": "Which image it was."},
        "picture": {"type": "string", "description": "The field of a picture that was refused."},
    }
    return {
        "type": "object",
        "description": "Every answer that is not what was asked for.",
        "properties": {
            "error": {
                "type": "object",
                "properties": properties,
                "required": ["message", "type", "param", "code"],
                "additionalProperties": False,
            },
            **words,
        },
        "required": ["error"],
        "additionalProperties": False,
    }


def _response(causes: list[Cause]) -> dict[str, Any]:
    texts = {_code(cause): _text(cause) for cause in reversed(causes)}
    headers = [name for cause in causes for name in _HEADERS.get(cause, ())]
    if any(_should_retry(cause) is not None for cause in causes):
        headers.append("x-should-retry")
    narrowed = {"properties": {"error": {"properties": {"code": {"enum": sorted(texts)}}}}}
    schema = {"allOf": [{"$ref": f"#/components/schemas/{ERROR_SCHEMA}"}, narrowed]}
    return {
        "description": " ".join(f"`{code}`: {texts[code]}" for code in sorted(texts)),
        "content": {"application/json": {"schema": schema}},
        "headers": header_refs(*dict.fromkeys(headers)),
    }


def _status(cause: Cause) -> int:
    return cause if isinstance(cause, int) else ERROR_TABLE[cause].status


def _code(cause: Cause) -> str:
    return HTTP_CODES[cause] if isinstance(cause, int) else ERROR_TABLE[cause].code


def _should_retry(cause: Cause) -> bool | None:
    return None if isinstance(cause, int) else ERROR_TABLE[cause].should_retry


def _text(cause: Cause) -> str:
    if isinstance(cause, int):
        return _STATUS_TEXT[cause]
    if cause is errors.SluiceError:
        return "The server failed in a way it did not foresee."
    return inspect.cleandoc(cause.__doc__ or "").partition("\n")[0]
