from __future__ import annotations

from dataclasses import replace

import pytest

from serve.tracing.views.summary import TraceFilters, TraceList, TraceSummary, summarise
from tests.serve.tracing.job_sample import job_sample
from tests.serve.tracing.sample import TRACE_ID, TraceBuilder, sample

SUMMARY = TraceSummary(
    trace_id=TRACE_ID,
    request_id="req-7c1f0e52a9",
    tenant="atelier",
    started=1_795_341_296.118,
    seconds=10.412,
    status=200,
    outcome="ok",
    model="flux.1-dev",
    size="1024x1024",
    images=2,
    deadline_ms=12_000,
    deadline_met=True,
    error=None,
)


def a_list() -> list[TraceSummary]:
    return [
        replace(
            SUMMARY, trace_id=f"{n:032x}", started=float(n), seconds=float(n % 7), tenant=tenant
        )
        for n, tenant in enumerate(["a", "b"] * 10)
    ]


def numbers(traces: list[TraceSummary]) -> list[int]:
    return [int(trace.trace_id, 16) for trace in traces]


def test_what_was_asked_and_what_became_of_it():
    assert summarise(sample()) == SUMMARY


def test_a_job_is_told_and_not_its_submission():
    found = summarise(job_sample())
    assert (found.status, found.outcome, found.images) == (None, "succeeded", 2)
    assert (found.seconds, found.queued_seconds, found.size) == (13.0, 1.5, "1024x1024")


@pytest.mark.parametrize(
    ("outcome", "error", "badge"),
    [
        ("succeeded", None, "good"),
        ("cancelled", None, "idle"),
        ("failed", "the store is away", "bad"),
        ("expired", "deadline_ms: 1 cannot be met", "bad"),
    ],
)
def test_how_a_job_ended(outcome: str, error: str | None, badge: str):
    found = summarise(job_sample(outcome=outcome, error=error))
    assert (found.outcome, found.error, found.badge) == (outcome, error, badge)


def test_before_a_job_is_over_its_submission_is_told():
    found = summarise(job_sample(is_over=False))
    assert (found.status, found.outcome, found.badge) == (202, "submitted", "idle")
    assert found.queued_seconds is None


def test_an_error_is_told_with_its_status():
    built = TraceBuilder()
    facts = {"http.response.status_code": 500, "gen_ai.request.choice.count": 3}
    built.span("POST /v1/images/generations", 0, 5, attributes=facts, error="status 500")
    found = summarise(built.otlp())
    assert (found.status, found.outcome, found.error) == (500, "failed", "status 500")
    assert found.has_failed
    assert found.images == 3
    assert (found.tenant, found.deadline_ms, found.deadline_met) == (None, None, None)


def test_a_refusal_has_failed_though_no_span_did():
    assert summarise(sample(**{"http.response.status_code": 429})).has_failed


def test_the_newest_come_first():
    assert numbers(TraceFilters().select(a_list())) == list(reversed(range(20)))


def test_the_slowest_tenth():
    assert numbers(TraceFilters(slow=True).select(a_list())) == [13, 6]
    assert TraceFilters(slow=True).select([]) == []


def test_every_filter_must_hold():
    missed = replace(SUMMARY, deadline_met=False)
    both = replace(missed, status=504, tenant="b")
    unknown = replace(SUMMARY, deadline_met=None)
    refused = replace(unknown, status=429)
    every = [SUMMARY, missed, both, unknown, refused]
    assert TraceFilters(missed=True).select(every) == [missed, both]
    assert TraceFilters(missed=True, failed=True).select(every) == [both]
    assert TraceFilters(missed=True, tenant="atelier").select(every) == [missed]
    assert TraceFilters(tenant="").select(every) == every


@pytest.mark.parametrize(
    ("deadline_ms", "met", "status", "result"),
    [
        (900, True, 200, "met"),
        (900, False, 200, "missed"),
        (900, False, 500, "missed"),
        (900, None, 429, "refused"),
        (900, None, 400, None),
        (None, None, 429, None),
    ],
)
def test_what_became_of_a_deadline(
    deadline_ms: int | None, met: bool | None, status: int, result: str | None
):
    trace = replace(SUMMARY, deadline_ms=deadline_ms, deadline_met=met, status=status)
    assert trace.deadline_result == result


def test_no_tenant_is_one_value():
    assert summarise(sample(**{"sluice.tenant": ""})).tenant is None


@pytest.mark.parametrize(
    ("filters", "query"),
    [
        (TraceFilters(), {}),
        (TraceFilters(tenant=""), {}),
        (TraceFilters(slow=True, tenant="a&b"), {"slow": "1", "tenant": "a&b"}),
        (TraceFilters(missed=True, failed=True), {"missed": "1", "failed": "1"}),
    ],
)
def test_filters_as_parameters(filters: TraceFilters, query: dict[str, str]):
    assert filters.query() == query
    assert filters.chosen == bool(query)


def test_a_list_in_json_and_back():
    answer = TraceList(data=(SUMMARY, replace(SUMMARY, tenant=None)))
    assert TraceList.model_validate(answer.as_json()) == answer
