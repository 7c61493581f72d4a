"""One line in the log per generation: what an operator needs to find an abuser or a slow request.

The same is said of the request's trace, which the line names. Holds the client's name for its user,
the tenant, the outcome, what was to be drawn and what it took; never a prompt.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from pipelines.contracts import ServiceTerms
from pipelines.errors import ContentPolicyViolation
from serve.errors import CLIENT_GONE_OUTCOME, ClientGone, error_code
from serve.generation.metrics import (
    OK,
    DeadlineResult,
    count_for_tenant,
    count_generation,
    deadline_result,
)
from serve.generation.plan import Plan, Punctuality
from serve.generation.sharing import Answer
from serve.generation.trace_attributes import (
    answer_attributes,
    request_attributes,
    requested_terms_attributes,
)
from serve.tenancy.principal import MAX_TENANT_CHARS
from serve.tracing.recorder import RequestTrace

logger = logging.getLogger("ray.serve")

Facts = dict[str, object]

_CLIENTS_WORDS = ("user", "tenant")

_MET: dict[DeadlineResult, str] = {"met": "yes", "missed": "no", "refused": "refused"}


CANCELLED = "cancelled"


def _cancelled() -> str:
    return CANCELLED


@dataclass(slots=True, kw_only=True)
class LogEntry:
    """A generation that arrived at `arrived`, Unix seconds, and what becomes known on the way.

    `user` is the client's name for its user. `plan` and `terms` are there once the request is known
    to be valid, `punctuality` with the answer, if there is a deadline. `cancelled_as` is asked when
    it was cancelled, for an outcome that says why. `admitting` holds the trace's part "admit" open,
    and is closed as soon as it is admitted.
    """

    request_id: str
    trace: RequestTrace
    arrived: float
    user: str | None = None
    cancelled_as: Callable[[], str] = _cancelled
    tenant: str | None = None
    plan: Plan | None = None
    terms: ServiceTerms | None = None
    answer: Answer | None = None
    punctuality: Punctuality | None = None
    admitting: ExitStack = field(default_factory=ExitStack)

    @property
    def is_on_time(self) -> bool:
        """Whether a deadline was met: only an answer can meet one."""
        return self.punctuality is not None and self.punctuality.is_met


OnEnd = Callable[[str, DeadlineResult | None], None]
"""Told how a generation has ended, and what became of its deadline if it had one."""


def _unheard(_: str, __: DeadlineResult | None) -> None:
    return None


@contextmanager
def generation_log(
    entry: LogEntry, *, model: str, with_prompts: bool, on_end: OnEnd = _unheard
) -> Generator[None]:
    """Log how the body ends: `ok`, an error's code, `client_gone`, or how it was cancelled.

    `model` is its name, and `with_prompts` puts prompts into the trace; never into the log.
    """
    failure, started = None, time.monotonic()
    try:
        yield
    except BaseException as error:  # re-raised: a cancellation is an outcome to log as well
        failure = error
        raise
    finally:
        outcome, seconds = _outcome(entry, failure), time.monotonic() - started
        count_generation(outcome, seconds=seconds, answer=entry.answer, error=failure)
        deadline: DeadlineResult | None = None
        if entry.plan is not None and entry.terms is not None:
            deadline = deadline_result(outcome, entry.terms, met=entry.is_on_time)
            asked = entry.plan.requested.is_deadline_asked
            count_for_tenant(
                outcome, entry.terms, answer=entry.answer, deadline=deadline, asked=asked
            )
        on_end(outcome, deadline)
        _describe(entry, outcome, deadline, model=model, with_prompts=with_prompts)
        facts: Facts = {
            "request": entry.request_id,
            "trace": entry.trace.trace_id,
            "user": _cut(entry.user),
            "tenant": _cut(entry.tenant),
            "outcome": outcome,
            **_category(failure),
            **_planned(entry.plan),
            **_punctual(entry, deadline),
            **_answered(entry.answer),
            "seconds": round(seconds, 3),
        }
        # As fields of their own too, for logs in JSON.
        logger.info("generation %s", _in_words(facts), extra={"event": "generation", **facts})


def _in_words(facts: Facts) -> str:
    """`name=value` each; what a client has written is quoted."""
    return " ".join(
        f"{name}={value!r}" if name in _CLIENTS_WORDS else f"{name}={value}"
        for name, value in facts.items()
    )


def _describe(
    entry: LogEntry,
    outcome: str,
    deadline: DeadlineResult | None,
    *,
    model: str,
    with_prompts: bool,
) -> None:
    """Say it of the root of the request's trace."""
    attributes = entry.trace.root.attributes
    attributes["sluice.outcome"] = outcome
    if tenant := _cut(entry.tenant):
        attributes["sluice.tenant"] = tenant
    if entry.plan is not None:
        attributes |= request_attributes(entry.plan, model, with_prompts=with_prompts)
        attributes |= requested_terms_attributes(entry.plan.requested)
    if entry.answer is not None:
        attributes |= answer_attributes(entry.answer)
    if deadline in ("met", "missed"):
        attributes["sluice.deadline_met"] = deadline == "met"
    if entry.punctuality is not None:
        attributes["sluice.took_ms"] = entry.punctuality.took_ms


def _outcome(entry: LogEntry, error: BaseException | None) -> str:
    if error is None:
        return OK
    if isinstance(error, ClientGone):
        return CLIENT_GONE_OUTCOME
    if isinstance(error, asyncio.CancelledError):
        return entry.cancelled_as()
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


def _punctual(entry: LogEntry, deadline: DeadlineResult | None) -> Facts:
    """The deadline, and whether it was met; not where the client is the cause that it was not."""
    if entry.plan is None or entry.terms is None or entry.terms.deadline is None:
        return {}
    met: Facts = {} if deadline is None else {"met": _MET[deadline]}
    return {"deadline_ms": entry.plan.requested.deadline_ms, **met}


def _answered(answer: Answer | None) -> Facts:
    if answer is None:
        return {}
    facts: Facts = {"steps_run": _list(image.steps_run for image in answer.result.images)}
    if answer.result.resumed_at:
        facts["resumed_at"] = _list(answer.result.resumed_at)
    usage = answer.result.usage
    return {
        **facts,
        "source": answer.source or "drawn",
        "device_seconds": round(usage.device_seconds, 3),
        "megapixel_steps": round(usage.megapixel_steps, 3),
    }


def _list(values: Iterable[object]) -> str:
    return ",".join(map(str, values))


def _cut(name: str | None) -> str | None:
    """A name as it is logged: a refused one may be as long as a body."""
    return None if name is None else name[:MAX_TENANT_CHARS]
