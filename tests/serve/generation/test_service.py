"""A generation without HTTP, as a runner of jobs asks for it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

import pytest

from deployments.graph.forecast import Forecast
from deployments.graph.listening.events import Phase
from pipelines.contracts import FinishSpec, GenerationParams
from pipelines.errors import ContentPolicyViolation, DeadlineUnreachable, Overloaded, StageFailed
from pipelines.moderation import PromptRules
from serve.errors import ClientGone
from serve.generation.log import LogEntry
from serve.generation.plan import Plan, RequestedTerms
from serve.generation.service import GenerationService
from serve.generation.sharing import Answer
from serve.settings.sections import TracingConfig
from serve.tracing.recorder import Recorder
from tests.listeners import Heard
from tests.serve.fakes import FakeGraph, services

NOW = 1_800_000_000.0
PLAN = Plan(
    params=GenerationParams(
        prompt="a cat",
        height=64,
        width=64,
        num_inference_steps=12,
        guidance_scale=3.5,
        seed=1,
        max_sequence_length=20,
    ),
    finish=FinishSpec(seed=1),
    requested=RequestedTerms(
        deadline_ms=4000, is_deadline_asked=True, refuses_late=True, priority=0
    ),
    quality=None,
    revised_prompt=None,
    warnings=(),
)


def service(graph: FakeGraph, **settings: Any) -> GenerationService:
    return services(graph, rules=PromptRules.load(), now=lambda: NOW, **settings).generations


def entry(request_id: str = "job-1") -> LogEntry:
    trace = Recorder(TracingConfig()).begin("job", None)
    return LogEntry(request_id=request_id, trace=trace, arrived=NOW - 1.5, user="u", tenant="t")


async def draw(
    given: GenerationService,
    plan: Plan = PLAN,
    asked: LogEntry | None = None,
    heard: Heard | None = None,
) -> Answer:
    asked = asked or entry()
    terms = plan.requested.terms(tenant="t", arrived=asked.arrived)
    with given.logged(asked):
        if heard is None:
            return await given.generate(plan, terms, asked)
        return await given.generate(plan, terms, asked, heard)


@pytest.fixture(autouse=True)
def info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="ray.serve")


async def test_it_draws_logs_and_traces(caplog: pytest.LogCaptureFixture):
    graph, asked = FakeGraph(), entry()
    answer = await draw(service(graph), asked=asked)
    assert len(answer.result.images) == 1
    (job,) = graph.jobs
    assert (job.request_id, job.params, job.finish) == (
        "job-1",
        PLAN.params,
        replace(PLAN.finish, owner="t"),
    )
    assert job.trace == asked.trace.job_trace
    assert "generation request=job-1" in caplog.text
    assert "tenant='t' outcome=ok images=1" in caplog.text
    span = asked.trace.root.span()
    assert span.attributes["sluice.outcome"] == "ok"
    (admit,) = [part for part in span.children if part.name == "admit"]
    assert admit.error is None


async def test_a_listener_hears_of_every_phase_the_graph_tells():
    heard = Heard()
    await draw(service(FakeGraph()), heard=heard)
    assert [(each.phase, each.step) for each in heard.progress] == [
        (Phase.ENCODE, 0),
        (Phase.DENOISE, 5),
        (Phase.DENOISE, 12),
        (Phase.DECODE, 12),
        (Phase.DONE, 12),
    ]
    assert {(each.image, each.num_steps) for each in heard.progress} == {(0, 12)}


async def test_who_shares_a_drawing_hears_of_it_too_and_of_what_was_before():
    graph = FakeGraph(hangs=True)
    given = service(graph)
    silent = asyncio.create_task(draw(given))
    await graph.entered.acquire()
    heard = Heard()
    second = asyncio.create_task(draw(given, asked=entry("job-2"), heard=heard))
    while not heard.events:  # noqa: ASYNC110  it joins some turns of the loop later
        await asyncio.sleep(0)
    assert [(each.phase, each.step) for each in heard.progress] == [(Phase.DENOISE, 5)]
    silent.cancel()
    await asyncio.sleep(0)
    graph.go.set()
    assert (await second).source == "shared"
    assert [str(each.phase) for each in heard.progress] == ["denoise", "denoise", "decode", "done"]
    assert len(graph.jobs) == 1


async def test_a_kept_answer_tells_no_progress():
    given = service(FakeGraph(), **{"result_cache.max_bytes": 1 << 20})
    await draw(given)
    heard = Heard()
    assert (await draw(given, heard=heard)).source == "hit"
    assert heard.events == []


async def test_a_prompt_that_is_refused_is_not_drawn(caplog: pytest.LogCaptureFixture):
    graph = FakeGraph()
    given = service(graph)
    bad = replace(PLAN, params=replace(PLAN.params, prompt="a lot of gore"))
    with pytest.raises(ContentPolicyViolation):
        await draw(given, bad)
    assert graph.jobs == []
    assert given.admission.in_flight == 0
    assert "outcome=content_policy_violation category=" in caplog.text


async def test_no_place_and_no_file(caplog: pytest.LogCaptureFixture):
    given = service(FakeGraph(not_stored="the disk is full"), limits={"max_queued_images": 1})
    with given.admission.slot("other"), pytest.raises(Overloaded):
        await draw(given)
    assert "outcome=overloaded" in caplog.text
    assert given.storage.fault(NOW) is None
    await draw(given, replace(PLAN, finish=replace(PLAN.finish, store=True)))
    assert "the disk is full" in (given.storage.fault(NOW) or "")


async def test_an_unreachable_deadline_counts_from_the_arrival():
    graph = FakeGraph(error=DeadlineUnreachable("x", earliest_s=5.0, retry_after_s=2.0))
    with pytest.raises(DeadlineUnreachable, match="deadline_ms: 4000 cannot be met") as caught:
        await draw(service(graph))
    assert (caught.value.earliest_s, caught.value.retry_after_s) == (6.5, 2.0)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (StageFailed("x", stage="s"), "stage_failed"),
        (ClientGone(), "client_gone"),
        (asyncio.CancelledError(), "withdrawn"),
    ],
)
async def test_what_ends_it_before_there_is_a_plan_is_logged_too(
    caplog: pytest.LogCaptureFixture, error: BaseException, outcome: str
):
    given, asked = service(FakeGraph()), entry()
    asked.cancelled_as = lambda: "withdrawn"
    with pytest.raises(type(error)), given.logged(asked):
        raise error
    assert f"outcome={outcome} seconds=" in caplog.text
    assert asked.trace.root.attributes["sluice.outcome"] == outcome
    (admit,) = [part for part in asked.trace.root.span().children if part.name == "admit"]
    assert admit.error


def test_a_forecast_is_the_graphs():
    forecast = Forecast(asleep=("Denoiser",), cold_start_s=3.0)
    assert service(FakeGraph(forecast_of=forecast)).forecast(PLAN) is forecast
