"""All stages in one replica: the same pictures, over calls that never leave the process."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray.exceptions
from PIL import Image

from deployments.application import bind_stages
from deployments.graph.listening.events import GraphEvent, Phase, Progress
from deployments.graph.remote_graph import RemoteGraph
from deployments.graph.steering.steering import Steering
from deployments.lifecycle.callers import CallerWatch
from deployments.names import StageName
from deployments.options.stages import StagesConfig
from deployments.stages.fused import Fused
from deployments.stages.local_handle import LocalHandle
from deployments.wire.packed import Refusal
from deployments.wire.parts import Part
from pipelines.contracts import (
    Cut,
    FinishSpec,
    GenerationJob,
    GenerationParams,
    GenerationResult,
    ServiceTerms,
    Usage,
)
from pipelines.engine.observe.profiling import ProfileRequest
from pipelines.engine.observe.stats import EngineStats
from pipelines.errors import ConfigurationError, StageFailed
from pipelines.tracing.open_spans import OpenSpan
from tests.chrome_trace import events_of, ticks_of
from tests.listeners import Heard
from tests.oracle import compare, oracle_images
from tests.specs import tiny_spec

PARAMS = GenerationParams(
    prompt="a red circle",
    height=64,
    width=48,
    num_inference_steps=3,
    guidance_scale=3.5,
    seed=4,
    num_images=2,
    max_sequence_length=12,
)
JOB = GenerationJob(request_id="r", params=PARAMS, finish=FinishSpec(seed=4))
RESULT = GenerationResult(
    images=(), usage=Usage(input_tokens=1, output_tokens=2), timings={"total": 1.0}
)


@pytest.fixture
async def fused(dev_like: Path, tmp_path: Path) -> AsyncIterator[Fused]:
    config = StagesConfig.model_validate(
        {
            "layout": "fused",
            "denoiser": {"cost_cache": tmp_path / "cost", "calibration_s": 0.2},
            "safety": {"classifier": "off"},
            "storage": {"directory": tmp_path / "files"},
        }
    )
    stages = Fused(tiny_spec(dev_like), config)
    yield stages
    stages.close()


async def test_it_draws_what_the_oracle_draws(fused: Fused, dev_like: Path) -> None:
    result = await _result(fused, JOB)
    expected = oracle_images(dev_like, PARAMS)
    for image, theirs in zip(result.images, expected, strict=True):
        assert image.b64 is not None
        ours = np.asarray(Image.open(io.BytesIO(base64.b64decode(image.b64))))
        assert compare(ours, theirs).is_exact
    assert [image.steps_run for image in result.images] == [3, 3]
    assert result.usage.output_tokens == 2 * 12
    assert {"encode", "denoise", "decode", "finish", "total"} <= result.timings.keys()
    assert "safety" not in result.timings
    assert await fused.ready()
    fused.check_health()


async def test_its_denoiser_can_be_profiled(fused: Fused) -> None:
    load = await fused.load()
    asked = asyncio.create_task(fused.profile(ProfileRequest(ticks=2), replica=load.replica))
    await _result(fused, JOB)
    profile = await asked
    assert profile is not None
    assert len(ticks_of(events_of(profile.trace))) == profile.ticks == 2


def endless(seed: int) -> GenerationJob:
    """A job of one image that nobody waits for."""
    params = replace(PARAMS, num_inference_steps=20_000, seed=seed, num_images=1)
    return GenerationJob(request_id=f"endless-{seed}", params=params, finish=FinishSpec(seed=seed))


async def works_become(fused: Fused, number: int, *, after_steps: int = 0) -> EngineStats:
    """Wait until the engine has so many works, and has run more than so many steps."""
    denoiser: Any = fused._stages["denoiser"]
    while True:
        stats = await denoiser.stats()
        if stats.works == number and stats.steps >= after_steps:
            return stats
        await asyncio.sleep(0.01)  # the engine is another thread


async def test_a_request_that_is_given_up_leaves_the_engine(fused: Fused) -> None:
    task = asyncio.create_task(_result(fused, endless(1)))
    await works_become(fused, 1, after_steps=1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await works_become(fused, 0)


async def test_works_of_an_ingress_that_has_died_leave_and_those_of_others_go_on(
    fused: Fused,
) -> None:
    """Over the remote graph as well, which says who calls."""
    dead: set[str] = set()
    fused._callers = CallerWatch(has_died=dead.__contains__, period_s=0.01, linger_s=0.0)
    asked_by: dict[str, asyncio.Task[GenerationResult]] = {}
    for seed, name in enumerate(("one", "other")):
        ingress = RemoteGraph(_handle(fused))
        ingress._caller = name
        asked_by[name] = asyncio.create_task(ingress.generate(endless(seed)))
    before = await works_become(fused, 2, after_steps=2)
    dead.add("one")
    after = await works_become(fused, 1)
    assert (after.cancelled, after.finished) == (before.cancelled + 1, before.finished)
    await works_become(fused, 1, after_steps=after.steps + 10)
    assert not asked_by["other"].done()
    for task in asked_by.values():
        task.cancel()
    await asyncio.gather(*asked_by.values(), return_exceptions=True)
    await works_become(fused, 0)


async def test_it_ends_when_its_engine_has_ended(
    fused: Fused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No image could go on here, and a replica that is gone is asked no more."""

    ends: list[str] = []

    def end(why: str) -> None:
        ends.append(why)
        raise StageFailed(why, stage="Denoiser")

    monkeypatch.setattr("deployments.stages.denoiser.end_process", end)
    denoiser: Any = fused._stages["denoiser"]
    denoiser._engine.hand_over()
    with pytest.raises(StageFailed):
        await asyncio.wait_for(_result(fused, JOB), 60)
    assert ends


def test_a_gpu_of_another_stage_than_the_denoiser_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"vae_decoder.num_gpus.*set denoiser.num_gpus: 1"):
        StagesConfig.model_validate({"layout": "fused", "vae_decoder": {"num_gpus": 1}})
    both = {"layout": "fused", "denoiser": {"num_gpus": 1}, "vae_decoder": {"num_gpus": 1}}
    assert StagesConfig.model_validate(both).layout == "fused"


def test_the_former_name_says_what_to_write() -> None:
    with pytest.raises(ConfigurationError, match=r"layout: .* write layout: fused"):
        StagesConfig.model_validate({"together": True})


def test_it_is_placed_as_the_denoiser_with_the_cpus_of_all() -> None:
    config = StagesConfig.model_validate(
        {"layout": "fused", "denoiser": {"num_cpus": 1, "num_replicas": 3}}
    )
    (stage,) = bind_stages(tiny_spec("nowhere"), config).items()
    key, application = stage
    deployment: Any = application._bound_deployment
    assert (key, deployment.name, deployment.num_replicas) == ("fused", "Fused", 3)
    assert deployment.ray_actor_options["num_cpus"] == pytest.approx(1.7)


async def test_requests_of_a_replica_that_died_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.graph.attempts.RETRY_PAUSE_S", 0.0)

    class Dying:
        def __init__(self, deaths: int) -> None:
            self.calls, self.deaths = 0, deaths
            self.terms: list[ServiceTerms] = []

        async def generate(
            self, job: GenerationJob, **asked: object
        ) -> AsyncIterator[GenerationResult]:
            self.calls += 1
            self.terms.append(job.terms)
            if self.calls <= self.deaths:
                raise ray.exceptions.ActorDiedError
            yield RESULT

        async def ready(self) -> bool:
            return True

    stage = Dying(2)
    graph = RemoteGraph(_handle(stage))
    promised = ServiceTerms(deadline=5.0, refuses_late=True)
    assert await graph.generate(replace(JOB, terms=promised)) == RESULT
    # What a lost replica had accepted is not refused by the next.
    kept = ServiceTerms(deadline=5.0, is_promised=True)
    assert stage.terms == [promised, kept, kept]
    assert await graph.ready() == {"Fused": True}
    with pytest.raises(StageFailed, match="Fused failed 3 times") as failed:
        await RemoteGraph(_handle(Dying(3))).generate(JOB)
    assert failed.value.stage == StageName.FUSED


async def test_the_ingress_hears_how_far_the_images_are(fused: Fused) -> None:
    """Of the real stages, over the stream of a fused replica, and then the same result."""
    job = replace(JOB, params=replace(PARAMS, num_inference_steps=12, num_images=1))
    listener = Heard()
    result = await RemoteGraph(_handle(fused)).generate(job, OpenSpan("generate"), listener)
    heard = listener.progress
    assert heard == listener.events  # it wanted nothing else
    assert list(dict.fromkeys(each.phase for each in heard)) == list(Phase)
    # A slow machine tells of other steps in between.
    denoising = [each.step for each in heard if each.phase == Phase.DENOISE]
    assert denoising == sorted(denoising)
    assert {5, 10, 12} <= set(denoising)
    assert {each.num_steps for each in heard} == {12}
    assert [image.steps_run for image in result.images] == [12]


async def test_what_a_dead_replica_had_done_is_not_done_again(fused: Fused) -> None:
    """Where the listener wants to know of it: here one image is drawn by then, and one half."""
    job = replace(JOB, params=replace(PARAMS, num_inference_steps=12))
    listener = Heard(wants_checkpoints=True)
    whole = await RemoteGraph(_handle(fused)).generate(job, OpenSpan("generate"), listener)
    first = next(part for part in listener.drawn if part.image == 0)
    second = next(part for part in listener.checkpoints if part.image == 1)
    resumed: list[Mapping[int, Part]] = []

    class DyingOnce:
        """The first call tells of these and dies, the next is answered."""

        async def generate(
            self, job: GenerationJob, *, resume: Mapping[int, Part], **asked: Any
        ) -> AsyncIterator[GraphEvent | GenerationResult | Refusal]:
            resumed.append(dict(resume))
            if len(resumed) == 1:
                yield first
                yield second
                raise ray.exceptions.ActorDiedError
            async for item in fused.generate(job, resume=resume, **asked):
                yield item

        ready = fused.ready

    result = await RemoteGraph(_handle(DyingOnce())).generate(job, OpenSpan("generate"), listener)
    assert resumed == [{}, {0: first, 1: second}]
    assert [image.sha256 for image in result.images] == [image.sha256 for image in whole.images]
    assert result.resumed_at == (second.checkpoint.step,)
    # Of what is all drawn, no replica is asked anything.
    drawn = {part.image: part for part in listener.drawn}
    again = await RemoteGraph(_handle(None)).generate(job, resume=drawn)
    assert again.images == tuple(drawn[index].file for index in range(2))
    assert (again.images, again.usage) == (result.images, result.usage)


async def test_what_is_kept_is_finished_there_too(fused: Fused) -> None:
    """The steering reaches the engine inside, and the file says how it is drawn again."""
    steering, told = Steering(), Heard()

    class KeepsAfterAStep(Heard):
        def __call__(self, event: GraphEvent, /) -> None:
            told(event)
            if isinstance(event, Progress) and event.step:
                steering.keep()

    params = replace(PARAMS, num_inference_steps=2_000, num_images=1)
    job = GenerationJob(request_id="r", params=params, finish=FinishSpec(seed=4))
    graph = RemoteGraph(_handle(fused))
    kept = await graph.generate(job, OpenSpan("generate"), KeepsAfterAStep(), steering=steering)
    (image,) = kept.images
    assert image.steps_run is not None
    assert 1 < image.steps_run < 2_000
    assert fused._steerings == {}
    cuts = (Cut(image.steps_run - 1, image.steps_run),)
    again = replace(job, params=replace(params, planned_cuts=cuts))
    (drawn_again,) = (await graph.generate(again)).images
    assert (drawn_again.sha256, drawn_again.steps_run) == (image.sha256, image.steps_run)


async def test_its_images_are_shown_on_their_way(
    fused: Fused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a listener that wants that from the start, and to one that does later; the same image."""
    monkeypatch.setattr("pipelines.engine.previewing.EVERY_S", 0.0)
    job = replace(JOB, params=replace(PARAMS, num_inference_steps=200, num_images=1))
    graph, steering = RemoteGraph(_handle(fused)), Steering()

    class LooksAfterAStep(Heard):
        def __call__(self, event: GraphEvent, /) -> None:
            super().__call__(event)
            if isinstance(event, Progress) and event.step:
                self.wants_previews = True
                steering.previews(True)

    at_once, later, never = Heard(wants_previews=True), LooksAfterAStep(), Heard()
    results = [
        await graph.generate(job, OpenSpan("generate"), at_once),
        await graph.generate(job, OpenSpan("generate"), later, steering=steering),
        await graph.generate(job, OpenSpan("generate"), never),
    ]
    assert at_once.previews
    assert later.previews
    assert min(each.step for each in later.previews) > 1
    assert never.previews == []
    assert len({result.images[0].sha256 for result in results}) == 1


async def _result(fused: Fused, job: GenerationJob) -> GenerationResult:
    """Of a call that nobody listens to: nothing else is sent."""
    (result,) = [item async for item in fused.generate(job)]
    if isinstance(result, Refusal):
        raise result.error
    assert isinstance(result, GenerationResult)
    return result


def _handle(stage: object) -> Any:
    return LocalHandle(stage)
