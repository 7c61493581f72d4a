"""Equal requests are drawn once, for one tenant, and nobody is worse off for it."""

from __future__ import annotations

import asyncio
import dataclasses
from contextvars import Context

import pytest

from deployments.graph.steering.steering import NO_CONTROLS, Steering
from deployments.wire.parts import ImageDrawn
from pipelines.contracts import FinishSpec, GenerationJob, GenerationParams, ServiceTerms
from pipelines.errors import DeadlineUnreachable, StageFailed
from serve.generation.result_cache import ResultCache
from serve.generation.sharing import Answer, Sharing, may_join
from tests.listeners import Heard
from tests.serve.fakes import FakeGraph, finished

PARAMS = GenerationParams(
    prompt="a cat",
    height=64,
    width=64,
    num_inference_steps=12,
    guidance_scale=3.5,
    seed=1,
    max_sequence_length=20,
)
TERMS = ServiceTerms(tenant="t", deadline=100.0)
PLENTY = 1 << 20


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def job(
    request_id: str = "r",
    *,
    params: GenerationParams = PARAMS,
    terms: ServiceTerms = TERMS,
    store: bool = True,
) -> GenerationJob:
    finish = FinishSpec(seed=params.seed, store=store)
    return GenerationJob(request_id=request_id, params=params, finish=finish, terms=terms)


def sharing(graph: FakeGraph, *, max_bytes: int = 0, clock: Clock | None = None) -> Sharing:
    return Sharing(
        graph.generate,
        graph.store.get,
        ResultCache(max_bytes, 10.0),
        context_of=lambda _: Context(),
        clock=clock or Clock(),
    )


async def together(graph: FakeGraph, given: Sharing, *jobs: GenerationJob) -> list[Answer]:
    """The answers of jobs that are all under way before the first is drawn."""
    graph.hangs = True
    tasks = [asyncio.create_task(given.answer(each)) for each in jobs]
    for _ in range(10):
        await asyncio.sleep(0)
    graph.go.set()
    return await asyncio.gather(*tasks)


def drawn(graph: FakeGraph) -> list[str]:
    return [each.request_id for each in graph.jobs]


class TestUnderWay:
    async def test_equal_requests_are_drawn_once(self):
        graph = FakeGraph()
        answers = await together(graph, sharing(graph), job("a"), job("b"), job("c"))
        assert drawn(graph) == ["a"]
        assert [answer.source for answer in answers] == [None, "shared", "shared"]
        assert answers[0].result is answers[1].result is answers[2].result

    @pytest.mark.parametrize(
        "other",
        [
            job("b", terms=dataclasses.replace(TERMS, tenant="other")),
            job("b", params=dataclasses.replace(PARAMS, seed=2)),
            job("b", params=dataclasses.replace(PARAMS, skips_steps=True)),
            job("b", store=False),
        ],
        ids=["tenant", "seed", "skips", "finish"],
    )
    async def test_what_differs_is_drawn_apart(self, other: GenerationJob):
        graph = FakeGraph()
        answers = await together(graph, sharing(graph, max_bytes=PLENTY), job("a"), other)
        assert drawn(graph) == ["a", "b"]
        assert [answer.source for answer in answers] == [None, None]

    async def test_what_may_be_cut_short_is_drawn_apart(self):
        graph = FakeGraph()
        params = dataclasses.replace(PARAMS, min_inference_steps=3)
        given = sharing(graph, max_bytes=PLENTY)
        await together(graph, given, job("a", params=params), job("b", params=params))
        assert (await given.answer(job("c", params=params))).source is None
        assert drawn(graph) == ["a", "b", "c"]

    async def test_later_ones_are_drawn_anew(self):
        graph = FakeGraph()
        given = sharing(graph)
        await given.answer(job("a"))
        assert (await given.answer(job("b"))).source is None

    async def test_an_error_goes_to_all(self):
        graph = FakeGraph(error=StageFailed("broken", stage="Denoiser"))
        with pytest.raises(StageFailed):
            await together(graph, sharing(graph), job("a"), job("b"))
        assert drawn(graph) == ["a"]

    async def test_the_first_may_leave(self):
        graph = FakeGraph(hangs=True)
        given = sharing(graph)
        first, second = (asyncio.create_task(given.answer(job(name))) for name in "ab")
        await graph.entered.acquire()
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        graph.go.set()
        assert (await second).source == "shared"
        assert graph.cancelled == []

    async def test_the_last_takes_the_work_along(self):
        graph = FakeGraph(hangs=True)
        given = sharing(graph)
        tasks = [asyncio.create_task(given.answer(job(name))) for name in "ab"]
        await graph.entered.acquire()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await asyncio.sleep(0)
        assert graph.cancelled == ["a"]


class TestUrgency:
    @pytest.mark.parametrize(
        ("newcomer", "joins"),
        [
            (TERMS, True),
            (dataclasses.replace(TERMS, deadline=101.0), True),
            (dataclasses.replace(TERMS, deadline=None), True),
            (dataclasses.replace(TERMS, priority=-1), True),
            (dataclasses.replace(TERMS, deadline=99.0), False),
            (dataclasses.replace(TERMS, priority=1), False),
            (dataclasses.replace(TERMS, refuses_late=True), False),
        ],
    )
    async def test_the_more_urgent_is_drawn_apart(self, newcomer: ServiceTerms, joins: bool):
        assert may_join(newcomer, TERMS) == joins
        graph = FakeGraph()
        answers = await together(graph, sharing(graph), job("a"), job("b", terms=newcomer))
        assert drawn(graph) == (["a"] if joins else ["a", "b"])
        assert answers[1].source == ("shared" if joins else None)

    async def test_whoever_comes_later_joins_the_more_urgent(self):
        graph = FakeGraph()
        urgent = dataclasses.replace(TERMS, priority=5)
        jobs = [job("a"), job("b", terms=urgent), job("c", terms=urgent), job("d")]
        answers = await together(graph, sharing(graph), *jobs)
        assert drawn(graph) == ["a", "b"]
        assert answers[1].result is answers[2].result is answers[3].result

    async def test_the_leaders_deadline_refuses_nobody_else(self):
        graph = FakeGraph(error=DeadlineUnreachable("late", earliest_s=5.0), hangs=True)
        given = sharing(graph)
        leader = job("a", terms=dataclasses.replace(TERMS, refuses_late=True))
        tasks = [asyncio.create_task(given.answer(each)) for each in (leader, job("b"), job("c"))]
        await graph.entered.acquire()
        graph.go.set()
        with pytest.raises(DeadlineUnreachable):
            await tasks[0]
        graph.error = None
        answers = await asyncio.gather(*tasks[1:])
        assert drawn(graph) == ["a", "b"]
        assert [answer.source for answer in answers] == [None, "shared"]


class TestKept:
    async def test_an_equal_request_is_answered_from_memory(self):
        graph = FakeGraph()
        given = sharing(graph, max_bytes=PLENTY)
        first, second = [await given.answer(job(name)) for name in "ab"]
        assert (first.source, second.source) == (None, "hit")
        assert second.result.images == first.result.images
        assert second.result.timings == {}
        assert drawn(graph) == ["a"]

    async def test_urgency_is_no_matter_then(self):
        graph = FakeGraph()
        given = sharing(graph, max_bytes=PLENTY)
        await given.answer(job("a"))
        urgent = ServiceTerms(tenant="t", deadline=1.0, priority=10, refuses_late=True)
        assert (await given.answer(job("b", terms=urgent))).source == "hit"

    async def test_another_tenant_draws_its_own(self):
        graph = FakeGraph()
        given = sharing(graph, max_bytes=PLENTY)
        await given.answer(job("a"))
        answer = await given.answer(job("b", terms=ServiceTerms(tenant="other")))
        assert answer.source is None
        assert drawn(graph) == ["a", "b"]

    async def test_it_is_forgotten_in_time(self):
        graph, clock = FakeGraph(), Clock()
        given = sharing(graph, max_bytes=PLENTY, clock=clock)
        await given.answer(job("a"))
        clock.now = 10.0
        assert (await given.answer(job("b"))).source is None

    async def test_its_time_begins_before_its_files(self):
        graph, clock = FakeGraph(), Clock()
        given = sharing(graph, max_bytes=PLENTY, clock=clock)
        graph.hangs = True
        task = asyncio.create_task(given.answer(job("a")))
        await graph.entered.acquire()
        clock.now = 9.0
        graph.go.set()
        await task
        clock.now = 10.0
        assert (await given.answer(job("b"))).source is None

    async def test_links_that_lead_nowhere_are_not_given(self):
        graph = FakeGraph()
        given = sharing(graph, max_bytes=PLENTY)
        await given.answer(job("a"))
        graph.store.files.clear()
        answer = await given.answer(job("b"))
        assert answer.source is None
        assert answer.result.images[0].file_id in graph.store.files

    async def test_failures_are_not_kept(self):
        graph = FakeGraph(error=StageFailed("broken", stage="Denoiser"))
        given = sharing(graph, max_bytes=PLENTY)
        with pytest.raises(StageFailed):
            await given.answer(job("a"))
        graph.error = None
        assert (await given.answer(job("b"))).source is None

    async def test_the_images_count_as_bytes(self):
        graph = FakeGraph()
        given = sharing(graph, max_bytes=1000)
        await given.answer(job("a"))
        assert (await given.answer(job("b"))).source is None


async def test_a_kept_answer_costs_nothing_again():
    graph = FakeGraph()
    given = sharing(graph, max_bytes=PLENTY)
    drawing, kept = await given.answer(job("a")), await given.answer(job("b"))
    assert (drawing.source, kept.source) == (None, "hit")
    assert (drawing.result.usage.device_seconds, kept.result.usage.device_seconds) == (0.25, 0.0)
    assert drawing.result.usage.megapixel_steps > kept.result.usage.megapixel_steps == 0.0
    assert kept.result.usage.total_tokens == drawing.result.usage.total_tokens


async def test_what_is_steered_or_taken_up_again_is_drawn_by_itself():
    graph, steering = FakeGraph(), Steering()
    given = sharing(graph, max_bytes=PLENTY)
    part = ImageDrawn(image=0, file=finished(), prompts=())
    steered = await given.answer(job("a"), steering=steering)
    resumed = await given.answer(job("b"), resume={0: part})
    assert drawn(graph) == ["a", "b"]
    assert (steered.source, resumed.source) == (None, None)
    assert resumed.result.images == (part.file,)
    assert graph.steerings == [steering, None]
    assert [dict(each) for each in graph.resumes] == [{}, {0: part}]
    # Nobody else gets what may have been cut short.
    assert (await given.answer(job("c"))).source is None


async def test_a_drawing_is_shown_once_anybody_who_shares_it_wants_to_see_it():
    graph = FakeGraph(hangs=True)
    given = sharing(graph)
    first = asyncio.create_task(given.answer(job("a")))
    await graph.entered.acquire()
    (steering,) = graph.steerings
    assert steering is not None
    silent = asyncio.create_task(given.answer(job("b"), listener=Heard()))
    await asyncio.sleep(0)
    assert steering.controls == NO_CONTROLS
    watching = asyncio.create_task(given.answer(job("c"), listener=Heard(wants_previews=True)))
    while steering.controls.previews is None:  # noqa: ASYNC110  it joins some turns later
        await asyncio.sleep(0)
    graph.go.set()
    await asyncio.gather(first, silent, watching)
    assert drawn(graph) == ["a"]
    assert not steering.controls.keep
