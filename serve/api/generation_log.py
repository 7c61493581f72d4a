"""One line in the log per generation: what an operator needs to find an abuser or a slow request.

The same is said of the request's trace, which the line names. Holds the client's name for its user,
the tenant, the outcome, what was to be drawn and what it took; never a prompt.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.requests import Request

from pipelines.contracts import ServiceTerms
from pipelines.errors import ContentPolicyViolation, RequestTimeout
from serve.api.disconnect import ClientGone
from serve.api.errors import ERROR_TABLE, error_code
from serve.api.generation_metrics import OK, count_for_tenant, count_generation
from serve.api.normalise import Plan
from serve.api.schemas import ImageGenerationRequest
from serve.api.services import services_of
from serve.api.sharing import Answer
from serve.api.tracing import answered, asked, trace_of, wanted
from serve.middleware.timeout import is_over_time

_log = logging.getLogger("ray.serve")


@dataclass(slots=True)
class LogEntry:
    """What becomes known on the way: `plan` and `terms` once the request is known to be valid."""

    tenant: str | None = None
    plan: Plan | None = None
    terms: ServiceTerms | None = None
    answer: Answer | None = None


@contextmanager
def generation_log(request: Request, fields: ImageGenerationRequest) -> Generator[LogEntry]:
    """Log how the body ends: `ok`, an error's code, `client_gone`, or `cancelled` by the server."""
    entry, failure, started = LogEntry(), None, time.monotonic()
    try:
        yield entry
    except BaseException as error:  # re-raised: a cancellation is an outcome to log as well
        failure = error
        raise
    finally:
        outcome, seconds = _outcome(request, failure), time.monotonic() - started
        now = services_of(request).now()
        count_generation(outcome, seconds=seconds, answer=entry.answer, error=failure)
        if entry.terms is not None:
            asked_for = fields.deadline_ms is not None
            count_for_tenant(outcome, entry.terms, asked=asked_for, answer=entry.answer, now=now)
        _describe(request, entry, outcome, now)
        _log.info(
            "generation request=%s trace=%s user=%r tenant=%r outcome=%s%s%s%s%s seconds=%.3f",
            request.state.request_id,
            trace_of(request).trace_id,
            fields.safety_identifier or fields.user,
            entry.tenant,
            outcome,
            _category(failure),
            _planned(entry.plan),
            _punctual(entry, now),
            _answered(entry.answer),
            seconds,
        )


def _describe(request: Request, entry: LogEntry, outcome: str, now: float) -> None:
    """Say it of the root of the request's trace."""
    services = services_of(request)
    attributes = trace_of(request).root.attributes
    attributes["sluice.outcome"] = outcome
    if entry.plan is not None:
        settings = services.settings
        attributes |= asked(
            entry.plan, settings.model_id, with_prompts=settings.tracing.record_prompts
        )
        attributes |= wanted(entry.plan.wish, tenant=entry.tenant or "")
    if entry.answer is not None:
        attributes |= answered(entry.answer)
    if entry.terms is not None and entry.terms.deadline is not None:
        met = entry.answer is not None and now <= entry.terms.deadline
        attributes["sluice.deadline_met"] = met


def _outcome(request: Request, error: BaseException | None) -> str:
    if error is None:
        return OK
    if isinstance(error, ClientGone):
        return "client_gone"
    if isinstance(error, asyncio.CancelledError):
        # The error itself is made further out, where the time is measured.
        return ERROR_TABLE[RequestTimeout].code if is_over_time(request.scope) else "cancelled"
    return error_code(error)


def _category(error: BaseException | None) -> str:
    return f" category={error.category}" if isinstance(error, ContentPolicyViolation) else ""


def _planned(plan: Plan | None) -> str:
    if plan is None:
        return ""
    params = plan.params
    return (
        f" images={params.num_images} size={params.width}x{params.height}"
        f" steps={params.num_inference_steps}"
    )


def _punctual(entry: LogEntry, now: float) -> str:
    """The deadline, and whether it was met: only an image can meet one."""
    if entry.plan is None or entry.terms is None or entry.terms.deadline is None:
        return ""
    met = entry.answer is not None and now <= entry.terms.deadline
    return f" deadline_ms={entry.plan.wish.deadline_ms} met={'yes' if met else 'no'}"


def _answered(answer: Answer | None) -> str:
    if answer is None:
        return ""
    steps = ",".join(str(image.steps_run) for image in answer.result.images)
    resumed = ",".join(map(str, answer.result.resumed_at))
    moved = f" resumed_at={resumed}" if resumed else ""
    return f" steps_run={steps}{moved} source={answer.source or 'drawn'}"
