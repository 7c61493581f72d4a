"""One line in the log per generation: what an operator needs to find an abuser or a slow request.

Holds the client's name for its user, the outcome and what was to be drawn; never a prompt.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.requests import Request

from pipelines.contracts import GenerationParams
from pipelines.errors import ContentPolicyViolation, RequestTimeout
from serve.api.disconnect import ClientGone
from serve.api.errors import ERROR_TABLE, error_code
from serve.api.schemas import ImageGenerationRequest
from serve.middleware.timeout import is_over_time

_log = logging.getLogger("ray.serve")


@dataclass(slots=True)
class LogEntry:
    """What becomes known on the way: `params` once the request has turned out to be valid."""

    params: GenerationParams | None = None


@contextmanager
def generation_log(request: Request, fields: ImageGenerationRequest) -> Generator[LogEntry]:
    """Log how the body ends: `ok`, an error's code, `client_gone`, or `cancelled` by the server."""
    entry, outcome, started = LogEntry(), "ok", time.monotonic()
    try:
        yield entry
    except BaseException as error:  # re-raised: a cancellation is an outcome to log as well
        outcome = _outcome(request, error)
        raise
    finally:
        _log.info(
            "generation request=%s user=%r outcome=%s%s seconds=%.3f",
            request.state.request_id,
            fields.safety_identifier or fields.user,
            outcome,
            _drawn(entry.params),
            time.monotonic() - started,
        )


def _outcome(request: Request, error: BaseException) -> str:
    if isinstance(error, ClientGone):
        return "client_gone"
    if isinstance(error, asyncio.CancelledError):
        # The error itself is made further out, where the time is measured.
        return ERROR_TABLE[RequestTimeout].code if is_over_time(request.scope) else "cancelled"
    if isinstance(error, ContentPolicyViolation):
        return f"{error_code(error)} category={error.category}"
    return error_code(error)


def _drawn(params: GenerationParams | None) -> str:
    if params is None:
        return ""
    return (
        f" images={params.num_images} size={params.width}x{params.height}"
        f" steps={params.num_inference_steps}"
    )
