"""One line in the log per generation: what an operator needs to find an abuser or a slow request.

The same is said of the request's trace, which the line names. Holds the client's name for its user,
the tenant, the outcome, what was to be drawn and what it took; never a prompt.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.requests import Request

from pipelines.contracts import ServiceTerms
from pipelines.errors import ContentPolicyViolation, RequestTimeout
from serve.api.disconnect import ClientGone
from serve.api.normalise import Plan
from serve.api.schemas import ImageGenerationRequest
from serve.api.services import services_of
from serve.api.terms import MAX_TENANT_CHARS, Punctuality
from serve.errors import ERROR_TABLE, error_code
from serve.generation.metrics import OK, count_for_tenant, count_generation
from serve.generation.sharing import Answer
from serve.generation.trace_attributes import (
    answer_attributes,
    request_attributes,
    requested_terms_attributes,
    trace_of,
)
from serve.middleware.timeout import is_over_time

_log = logging.getLogger("ray.serve")

Facts = dict[str, object]

_CLIENTS_WORDS = ("user", "tenant")


@dataclass(slots=True)
class LogEntry:
    """What becomes known on the way: `plan` and `terms` once the request is known to be valid,
    `punctuality` with the answer, if there is a deadline."""

    tenant: str | None = None
    plan: Plan | None = None
    terms: ServiceTerms | None = None
    answer: Answer | None = None
    punctuality: Punctuality | None = None

    @property
    def is_on_time(self) -> bool:
        """Whether a deadline was met: only an answer can meet one."""
        return self.punctuality is not None and self.punctuality.is_met


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
        count_generation(outcome, seconds=seconds, answer=entry.answer, error=failure)
        if entry.terms is not None:
            asked_for = fields.deadline_ms is not None
            met = entry.is_on_time
            count_for_tenant(outcome, entry.terms, asked=asked_for, answer=entry.answer, met=met)
        _describe(request, entry, outcome)
        facts: Facts = {
            "request": request.state.request_id,
            "trace": trace_of(request).trace_id,
            "user": _cut(fields.safety_identifier or fields.user),
            "tenant": _cut(entry.tenant),
            "outcome": outcome,
            **_category(failure),
            **_planned(entry.plan),
            **_punctual(entry),
            **_answered(entry.answer),
            "seconds": round(seconds, 3),
        }
        # As fields of their own too, for logs in JSON.
        _log.info("generation %s", _in_words(facts), extra={"event": "generation", **facts})


def _in_words(facts: Facts) -> str:
    """`name=value` each; what a client has written is quoted."""
    return " ".join(
        f"{name}={value!r}" if name in _CLIENTS_WORDS else f"{name}={value}"
        for name, value in facts.items()
    )


def _describe(request: Request, entry: LogEntry, outcome: str) -> None:
    """Say it of the root of the request's trace."""
    services = services_of(request)
    attributes = trace_of(request).root.attributes
    attributes["sluice.outcome"] = outcome
    if entry.plan is not None:
        settings = services.settings
        attributes |= request_attributes(
            entry.plan, settings.model_id, with_prompts=settings.tracing.record_prompts
        )
        attributes |= requested_terms_attributes(entry.plan.requested, tenant=entry.tenant or "")
    if entry.answer is not None:
        attributes |= answer_attributes(entry.answer)
    if entry.terms is not None and entry.terms.deadline is not None:
        attributes["sluice.deadline_met"] = entry.is_on_time
    if entry.punctuality is not None:
        attributes["sluice.took_ms"] = entry.punctuality.took_ms


def _outcome(request: Request, error: BaseException | None) -> str:
    if error is None:
        return OK
    if isinstance(error, ClientGone):
        return "client_gone"
    if isinstance(error, asyncio.CancelledError):
        # The error itself is made further out, where the time is measured.
        return ERROR_TABLE[RequestTimeout].code if is_over_time(request.scope) else "cancelled"
    return error_code(error)


def _category(error: BaseException | None) -> Facts:
    return {"category": error.category} if isinstance(error, ContentPolicyViolation) else {}


def _planned(plan: Plan | None) -> Facts:
    if plan is None:
        return {}
    params = plan.params
    return {
        "images": params.num_images,
        "size": f"{params.width}x{params.height}",
        "steps": params.num_inference_steps,
    }


def _punctual(entry: LogEntry) -> Facts:
    """The deadline, and whether it was met."""
    if entry.plan is None or entry.terms is None or entry.terms.deadline is None:
        return {}
    met = "yes" if entry.is_on_time else "no"
    return {"deadline_ms": entry.plan.requested.deadline_ms, "met": met}


def _answered(answer: Answer | None) -> Facts:
    if answer is None:
        return {}
    facts: Facts = {"steps_run": _list(image.steps_run for image in answer.result.images)}
    if answer.result.resumed_at:
        facts["resumed_at"] = _list(answer.result.resumed_at)
    return {**facts, "source": answer.source or "drawn"}


def _list(values: Iterable[object]) -> str:
    return ",".join(map(str, values))


def _cut(name: str | None) -> str | None:
    """A name as it is logged: a refused one may be as long as a body."""
    return None if name is None else name[:MAX_TENANT_CHARS]
