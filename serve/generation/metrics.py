"""What a generation adds to the metrics when it ends, whatever became of it.

By the code that it left with; never by who asked beyond the tenant, nor by what was asked.
"""

from __future__ import annotations

from typing import Literal

from deployments.graph.forecast import COLD_START
from deployments.metrics import declared as metrics
from deployments.metrics.instruments import tenant_label
from pipelines.contracts import ServiceTerms
from pipelines.errors import ContentPolicyViolation
from serve.errors import ERROR_TABLE
from serve.generation.sharing import Answer

OK = "ok"

DeadlineResult = Literal["met", "missed", "refused"]

_STATUS = {rule.code: rule.status for rule in ERROR_TABLE.values()}
_TOO_MANY = 429


def count_generation(
    outcome: str,
    *,
    seconds: float,
    answer: Answer | None,
    error: BaseException | None,
) -> None:
    """A generation that ended so after `seconds`: `ok`, an error's code, or another word."""
    metrics.REQUESTS.add(outcome=outcome)
    if isinstance(error, ContentPolicyViolation):
        metrics.SAFETY_REFUSALS.add(stage=error.stage, category=error.category)
    if answer is not None and error is None:
        metrics.REQUEST_SECONDS.observe(seconds)
        _count_bytes(answer)
        if (cold_s := answer.result.timings.get(COLD_START)) is not None:
            metrics.COLD_START_SECONDS.observe(cold_s)


def count_for_tenant(
    outcome: str,
    terms: ServiceTerms,
    *,
    answer: Answer | None,
    deadline: DeadlineResult | None,
    asked: bool,
) -> None:
    """The same of a request that was valid: its images, and what became of its `deadline`, which
    was `asked` for or not."""
    tenant = tenant_label(terms.tenant)
    if answer is not None and outcome == OK:
        source = answer.source or "drawn"
        metrics.IMAGES.add(len(answer.result.images), source=source, tenant=tenant)
    if deadline is not None:
        kind = "asked" if asked else "default"
        metrics.DEADLINES.add(result=deadline, kind=kind, tenant=tenant)


def deadline_result(outcome: str, terms: ServiceTerms, *, met: bool) -> DeadlineResult | None:
    """`met`, `missed` or `refused`; None without a deadline, and where the client is the cause."""
    if terms.deadline is None:
        return None
    if outcome == OK:
        return "met" if met else "missed"
    status = _STATUS.get(outcome, 0)
    if status == _TOO_MANY:
        return "refused"
    return "missed" if status >= 500 else None


def _count_bytes(answer: Answer) -> None:
    inline = sum(len(image.b64 or "") for image in answer.result.images)
    metrics.RETURNED_BYTES.add(inline, route="generations")
