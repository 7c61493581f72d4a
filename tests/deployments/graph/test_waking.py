"""Sleeping stages seen from the graph: woken at once, told of, and a reason to refuse."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from deployments.graph.graph import Graph
from deployments.graph.remote_graph import RemoteGraph
from deployments.names import StageName
from deployments.routing.pools import Pool, pool_of
from deployments.stages.local_handle import LocalHandle
from pipelines.contracts import (
    FinishSpec,
    GenerationJob,
    GenerationParams,
    GenerationResult,
    ServiceTerms,
    Usage,
)
from pipelines.errors import DeadlineUnreachable, NotReady
from tests.deployments.fakes import FakeStages
from tests.deployments.pictures import painted_job

CONFIGURED_S = 1000.0
JOB = GenerationJob(
    request_id="req",
    params=GenerationParams(
        prompt="a cat",
        height=64,
        width=32,
        num_inference_steps=2,
        guidance_scale=3.5,
        seed=10,
        max_sequence_length=16,
    ),
    finish=FinishSpec(seed=10),
)
STAGES = tuple(stage for stage in StageName if stage is not StageName.FUSED)
FIVE = tuple(stage for stage in STAGES if stage is not StageName.IMAGE_ENCODER)
"""Those that every request needs."""

_names = itertools.count()
_client: ContextVar[str] = ContextVar("client", default="none")


class NamedHandle(LocalHandle):
    """A local handle of a deployment's name."""

    def __init__(
        self, stage: object, app_name: str, name: str, method_name: str = "", **options: Any
    ) -> None:
        super().__init__(stage, method_name, **options)
        self.app_name, self.deployment_name = app_name, name

    def options(
        self, *, method_name: str = "", stream: bool = False, _by_reference: bool = True
    ) -> LocalHandle:
        name = method_name or self._method_name
        return NamedHandle(self._stage, self.app_name, self.deployment_name, name, stream=stream)


@dataclass
class SleepingStage:
    """One stage: a call to it waits until it is `woken`. `asked` are the clients of its wakes."""

    stages: FakeStages
    pool: Pool
    up: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[str] = field(default_factory=list)
    error: Exception | None = None

    def wake(self) -> None:
        self.pool.cold.runs(1, time.perf_counter())
        self.up.set()

    async def ready(self) -> bool:
        self.asked.append(_client.get())
        if self.error is not None:
            raise self.error
        await self.up.wait()
        return True

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.stages, name)
        if name == "denoise":

            async def stream(*args: Any, **kwargs: Any) -> Any:
                await self.up.wait()
                async for item in method(*args, **kwargs):
                    yield item

            return stream

        async def call(*args: Any, **kwargs: Any) -> Any:
            await self.up.wait()
            return await method(*args, **kwargs)

        return call


class App:
    """A graph over fake stages of which `asleep` have no replica, if anybody `is_told`."""

    def __init__(
        self, asleep: tuple[StageName, ...] = STAGES, *, is_told: bool = True, **options: Any
    ) -> None:
        self.name = f"waking-{next(_names)}"
        self.stages = FakeStages()
        self.by_name = {
            stage: SleepingStage(self.stages, pool_of(self.name, str(stage))) for stage in STAGES
        }
        for stage, each in self.by_name.items():
            if is_told:
                each.pool.cold.runs(0, time.perf_counter())
            if stage not in asleep:
                each.wake()
        handles = {
            stage.key: cast(Any, NamedHandle(each, self.name, str(stage)))
            for stage, each in self.by_name.items()
        }
        scales_to_zero: dict[str, float] = dict.fromkeys(STAGES, CONFIGURED_S)
        self.graph = Graph(handles, scales_to_zero=scales_to_zero, **options)

    @property
    def asked(self) -> set[StageName]:
        return {stage for stage, each in self.by_name.items() if each.asked}

    def wake(self, *stages: StageName) -> None:
        for stage in stages:
            self.by_name[stage].wake()


async def turns(count: int = 50) -> None:
    """Everything gets as far as it can."""
    for _ in range(count):
        await asyncio.sleep(0)


def urgent(in_s: float) -> GenerationJob:
    return replace(JOB, terms=ServiceTerms(deadline=time.time() + in_s, refuses_late=True))


async def test_all_are_woken_before_the_first_has_answered() -> None:
    app = App()
    task = asyncio.create_task(app.graph.generate(JOB))
    await turns()
    assert app.asked == set(FIVE)
    assert app.stages.encoded == []
    app.wake(*FIVE)
    result = await task
    assert set(result.cold_stages) == {"TextEncoder", "Denoiser"}  # the others were up in time
    assert 0 < result.timings["cold_start"] <= result.timings["total"]


async def test_pictures_wake_what_encodes_them_and_nothing_else_does() -> None:
    app = App(asleep=(StageName.IMAGE_ENCODER,))
    result = await app.graph.generate(JOB)
    assert (app.asked, result.cold_stages) == (set(), ())
    assert app.graph.forecast(JOB.params).asleep == ()
    job = painted_job()
    assert app.graph.forecast(job.params).asleep == ("ImageEncoder",)
    task = asyncio.create_task(app.graph.generate(job))
    await turns()
    assert app.asked == {StageName.IMAGE_ENCODER}
    app.wake(StageName.IMAGE_ENCODER)
    result = await task
    assert result.cold_stages == ("ImageEncoder",)


async def test_a_probe_does_not_wake_what_encodes_pictures() -> None:
    app = App(asleep=(StageName.IMAGE_ENCODER,))
    assert set(await app.graph.ready()) == set(map(str, FIVE))
    assert StageName.IMAGE_ENCODER not in app.asked


async def test_a_deadline_counts_its_start_for_requests_with_pictures_alone() -> None:
    app = App(asleep=(StageName.IMAGE_ENCODER,))
    terms = urgent(1.0).terms
    with pytest.raises(DeadlineUnreachable):
        await app.graph.generate(replace(painted_job(), terms=terms))
    assert (await app.graph.generate(urgent(30.0))).images


async def test_a_stage_is_woken_once_however_many_ask() -> None:
    app = App()
    tasks = [asyncio.create_task(app.graph.generate(JOB)) for _ in range(3)]
    await turns()
    assert {stage: len(app.by_name[stage].asked) for stage in FIVE} == dict.fromkeys(FIVE, 1)
    app.wake(*FIVE)
    await asyncio.gather(*tasks)


async def test_what_runs_is_not_asked_and_nothing_is_told() -> None:
    app = App(asleep=())
    result = await app.graph.generate(JOB)
    assert app.asked == set()
    assert result.cold_stages == ()
    assert "cold_start" not in result.timings


async def test_only_the_stages_that_were_waited_for_are_told() -> None:
    app = App(asleep=(StageName.VAE_DECODER, StageName.FINISHER))
    task = asyncio.create_task(app.graph.generate(JOB))
    await turns()
    assert app.asked == {StageName.VAE_DECODER, StageName.FINISHER}
    assert app.stages.denoised  # meanwhile
    app.wake(StageName.VAE_DECODER, StageName.FINISHER)
    result = await task
    assert result.cold_stages == ("VaeDecoder", "Finisher")
    assert result.timings["cold_start"] > 0


async def test_a_classifier_that_is_off_is_not_woken() -> None:
    app = App(asleep=(StageName.SAFETY,), classifies=False)
    result = await app.graph.generate(JOB)
    assert (app.asked, result.cold_stages) == (set(), ())


async def test_a_client_that_leaves_wakes_them_all_the_same_in_nobodys_name() -> None:
    app = App()
    _client.set("somebody")
    task = asyncio.create_task(app.graph.generate(JOB))
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await turns()
    assert app.by_name[StageName.FINISHER].asked == ["none"]
    app.wake(*FIVE)
    await turns()
    await app.graph.generate(JOB)
    assert len(app.by_name[StageName.FINISHER].asked) == 1


async def test_a_wake_that_fails_fails_no_request_and_is_tried_again() -> None:
    app = App(asleep=(StageName.FINISHER,))
    finisher = app.by_name[StageName.FINISHER]
    finisher.error = NotReady("cannot be deployed")
    task = asyncio.create_task(app.graph.generate(JOB))
    await turns()
    finisher.error = None
    again = asyncio.create_task(app.graph.generate(JOB))
    await turns()
    assert len(finisher.asked) == 2
    app.wake(StageName.FINISHER)
    assert len((await task).images) == len((await again).images) == 1


async def test_a_deadline_within_the_cold_start_is_refused_at_once_and_wakes() -> None:
    app = App(asleep=(StageName.DENOISER,))
    with pytest.raises(DeadlineUnreachable) as refused:
        await app.graph.generate(urgent(20.0))
    assert 900 < refused.value.earliest_s <= CONFIGURED_S
    assert refused.value.retry_after_s == pytest.approx(CONFIGURED_S, abs=50)
    assert app.stages.encoded == []
    await turns()
    assert app.asked == {StageName.DENOISER}
    app.wake(StageName.DENOISER)
    assert (await app.graph.generate(urgent(20.0))).cold_stages == ()


@pytest.mark.parametrize(
    "terms",
    [
        ServiceTerms(deadline=time.time() + 3600, refuses_late=True),
        ServiceTerms(deadline=time.time() + 1),
        ServiceTerms(refuses_late=True),
    ],
)
async def test_who_is_on_time_or_may_be_late_waits(terms: ServiceTerms) -> None:
    app = App()
    task = asyncio.create_task(app.graph.generate(replace(JOB, terms=terms)))
    await turns()
    app.wake(*FIVE)
    assert len((await task).images) == 1


async def test_a_pool_of_which_nothing_is_known_refuses_nobody() -> None:
    app = App(is_told=False)
    assert app.graph.forecast(JOB.params).asleep == ()
    task = asyncio.create_task(app.graph.generate(urgent(20.0)))
    await turns()
    assert app.asked == set()
    app.wake(*FIVE)
    assert len((await task).images) == 1


class FusedStage:
    """`Fused` as the ingress sees it; counts what it is asked."""

    def __init__(self) -> None:
        self.wakes = 0
        self.up = asyncio.Event()

    async def ready(self) -> bool:
        self.wakes += 1
        await self.up.wait()
        return True

    async def generate(
        self, job: GenerationJob, **asked: object
    ) -> AsyncIterator[GenerationResult]:
        await self.up.wait()
        yield GenerationResult(
            images=(), usage=Usage(input_tokens=1, output_tokens=1), timings={"total": 0.0}
        )


async def test_fused_stages_are_told_of_as_one() -> None:
    stage, name = FusedStage(), f"waking-{next(_names)}"
    pool = pool_of(name, "Fused")
    pool.cold.runs(0, time.perf_counter())
    handle = cast(Any, NamedHandle(stage, name, "Fused"))
    graph = RemoteGraph(handle, scales_to_zero={StageName.FUSED: CONFIGURED_S})
    assert graph.forecast(JOB.params).asleep == ("Fused",)
    with pytest.raises(DeadlineUnreachable):
        await graph.generate(urgent(20.0))
    task = asyncio.create_task(graph.generate(JOB))
    await turns()
    assert stage.wakes == 1
    pool.cold.runs(1, time.perf_counter())
    stage.up.set()
    result = await task
    assert result.cold_stages == ("Fused",)
    assert 0 < result.timings["cold_start"] <= result.timings["total"]
    assert (await graph.generate(urgent(20.0))).cold_stages == ()
