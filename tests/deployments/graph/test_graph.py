from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from ray.exceptions import RayTaskError
from ray.serve.exceptions import BackPressureError

import deployments.graph.attempts
import deployments.graph.graph
from deployments.graph.graph import Graph
from pipelines.contracts import (
    FinishSpec,
    GenerationJob,
    GenerationParams,
    GenerationResult,
    LatentJob,
    ServiceTerms,
    TextPrompt,
)
from pipelines.errors import (
    ContentPolicyViolation,
    DeadlineUnreachable,
    DegenerateImage,
    Overloaded,
)
from tests.deployments.fakes import STEP_S, FakeStages, GoesAway


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployments.graph.attempts, "RETRY_PAUSE_S", 0.0)
    monkeypatch.setattr(deployments.graph.graph, "READY_TIMEOUT_S", 0.05)


def _job(**changes: Any) -> GenerationJob:
    values: dict[str, Any] = {
        "prompt": "a cat",
        "height": 64,
        "width": 32,
        "num_inference_steps": 2,
        "guidance_scale": 3.5,
        "seed": 10,
        "max_sequence_length": 16,
    }
    return GenerationJob(
        request_id="req",
        params=GenerationParams(**{**values, **changes}),
        finish=FinishSpec(seed=10, model="m"),
    )


async def _generate(stages: FakeStages, **changes: Any) -> GenerationResult:
    return await Graph(stages.handles()).generate(_job(**changes))


def _task_error(cause: Exception) -> BaseException:
    return RayTaskError("m", "Traceback", cause, pid=1, ip="0").as_instanceof_cause()


async def test_one_image() -> None:
    stages = FakeStages()
    result = await _generate(stages)
    (image,) = result.images
    assert (image.seed, image.width, image.height) == (10, 32, 64)
    assert result.usage.input_tokens == len("a cat")
    assert result.usage.output_tokens == 2 * 4
    assert result.usage.device_seconds == 2 * STEP_S
    assert result.usage.megapixel_steps == pytest.approx(2 * 64 * 32 / 1e6)
    assert result.warnings == ()
    assert image.timings == {"denoise": 0.5, "safety_wait": 0.0, "safety": 0.25}
    assert {"denoise", "safety", "total"} <= result.timings.keys()
    (job,) = stages.denoised
    assert (job.sampling.num_inference_steps, job.sampling.guidance_scale) == (2, 3.5)
    assert job.num_images == 1


async def test_images_are_encoded_once_and_have_seeds_of_their_own_in_order() -> None:
    done = {seed: asyncio.Event() for seed in (11, 12, 13)}
    done[13].set()

    async def first_is_last(job: LatentJob) -> None:
        await done[job.sampling.seed + 1].wait()
        done.setdefault(job.sampling.seed, asyncio.Event()).set()

    stages = FakeStages(on_denoise=first_is_last)
    result = await _generate(stages, num_images=3)
    assert [image.seed for image in result.images] == [10, 11, 12]
    assert result.usage.device_seconds == 3 * 2 * STEP_S
    assert result.usage.megapixel_steps == pytest.approx(3 * 2 * 64 * 32 / 1e6)
    said = [image.sha256 for image in result.images]  # the fake finisher tells the parameters
    assert ["Seed: 10," in said[0], "Seed: 11," in said[1], "Seed: 12," in said[2]] == [True] * 3
    assert [job.sampling.seed for job in stages.denoised] == [12, 11, 10]
    assert len({job.work_id for job in stages.denoised}) == 3
    assert stages.encoded == ["a cat"]
    assert result.usage.output_tokens == 3 * 8


async def test_a_negative_prompt_is_encoded_and_counted_only_when_it_is_used() -> None:
    used = FakeStages()
    result = await _generate(used, negative_prompt="blur", true_cfg_scale=2.0)
    assert sorted(used.encoded) == ["a cat", "blur"]
    assert result.usage.input_tokens == len("a cat") + len("blur")
    assert result.warnings == ()

    unused = FakeStages()
    result = await _generate(unused, negative_prompt="blur")
    assert unused.encoded == ["a cat"]
    assert result.usage.input_tokens == len("a cat")
    assert result.warnings[0].startswith("negative_prompt")


async def test_an_empty_negative_prompt_is_one() -> None:
    stages = FakeStages()
    await _generate(stages, negative_prompt="", true_cfg_scale=2.0)
    assert sorted(stages.encoded) == ["", "a cat"]


async def test_a_dropped_tail_is_told() -> None:
    result = await _generate(FakeStages(dropped_text="the tail"))
    assert "the tail" in result.warnings[0]


async def test_requests_with_one_id_do_not_meet() -> None:
    stages = FakeStages()
    graph = Graph(stages.handles())
    await asyncio.gather(graph.generate(_job()), graph.generate(_job()))
    assert len({job.work_id for job in stages.denoised}) == 2


async def test_a_flagged_image_refuses_the_request_and_stops_the_others() -> None:
    release = asyncio.Event()

    async def others_wait(job: LatentJob) -> None:
        if job.sampling.seed != 11:
            await release.wait()

    stages = FakeStages(on_denoise=others_wait, flagged_seeds=(11,))
    with pytest.raises(ContentPolicyViolation) as caught:
        await _generate(stages, num_images=3)
    violation = caught.value
    assert (violation.stage, violation.image_index, violation.category) == ("image", 1, "sexual")
    assert (violation.score, violation.threshold) == (0.9, 0.8)
    await asyncio.sleep(0)
    assert sorted(job.sampling.seed for job in stages.cancelled) == [10, 12]
    assert stages.finished == []


async def test_a_cancelled_request_leaves_no_work() -> None:
    both_run = asyncio.Event()

    async def forever(job: LatentJob) -> None:
        if job.sampling.seed == 11:
            both_run.set()
        await asyncio.sleep(3600)

    stages = FakeStages(on_denoise=forever)
    task = asyncio.create_task(_generate(stages, num_images=2))
    await both_run.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert sorted(job.sampling.seed for job in stages.cancelled) == [10, 11]


@pytest.mark.parametrize("error", [DegenerateImage("black"), _task_error(DegenerateImage("black"))])
async def test_a_stages_own_error_comes_out_as_itself(error: BaseException) -> None:
    async def fail(job: LatentJob) -> None:
        del job
        raise error

    with pytest.raises(DegenerateImage) as caught:
        await _generate(FakeStages(on_decode=fail))
    assert type(caught.value) is DegenerateImage


async def test_back_pressure_is_overload() -> None:
    async def fail(prompt: TextPrompt) -> None:
        del prompt
        raise BackPressureError(2, 1)

    with pytest.raises(Overloaded):
        await _generate(FakeStages(on_encode=fail))


async def test_a_deadline_that_cannot_be_kept_refuses_the_request_and_stops_the_others() -> None:
    refusal = DeadlineUnreachable("too late", earliest_s=7.0, retry_after_s=3.0)
    both_run = asyncio.Event()

    async def refuse_one(job: LatentJob) -> None:
        if job.sampling.seed == 12:
            await both_run.wait()
            raise _task_error(refusal)
        if job.sampling.seed == 11:
            both_run.set()
        await asyncio.sleep(3600)

    stages = FakeStages(on_denoise=refuse_one)
    with pytest.raises(DeadlineUnreachable) as caught:
        await _generate(stages, num_images=3)
    assert type(caught.value) is DeadlineUnreachable
    assert caught.value.fields == refusal.fields
    await asyncio.sleep(0)
    assert sorted(job.sampling.seed for job in stages.cancelled) == [10, 11]


async def test_the_latents_deadline_is_earlier_by_what_the_rest_took_lately() -> None:
    async def slow(job: LatentJob) -> None:
        await asyncio.sleep(0.02)

    stages = FakeStages(on_decode=slow)
    graph = Graph(stages.handles())
    terms = ServiceTerms(tenant="a", deadline=1e9, priority=2, refuses_late=True)
    for _ in range(2):
        await graph.generate(replace(_job(), terms=terms))
    first, second = (job.terms for job in stages.started)
    assert first == terms
    assert second.deadline is not None
    assert 1e9 - 10 < second.deadline <= 1e9 - 0.02
    assert replace(second, deadline=1e9) == terms
    assert stages.terms == [terms] * 4  # of decoder and classifier: the request's own


async def test_requests_of_one_id_are_two_to_the_denoiser_and_their_images_one() -> None:
    """A client chooses the id, and may choose it twice."""
    stages = FakeStages()
    graph = Graph(stages.handles())
    await asyncio.gather(*(graph.generate(_job(num_images=2)) for _ in range(2)))
    groups = [job.group for job in stages.started]
    assert sorted(groups.count(group) for group in set(groups)) == [2, 2]
    assert {job.num_images for job in stages.started} == {2}


async def test_an_image_that_was_accepted_keeps_its_promise_elsewhere() -> None:
    async def go_away(job: LatentJob, step: int) -> None:
        if len(stages.started) == 1 and step == 3:
            raise GoesAway

    stages = FakeStages(on_step=go_away)
    terms = ServiceTerms(deadline=1e10, refuses_late=True)
    job = replace(_job(), terms=terms)
    await Graph(stages.handles()).generate(
        replace(job, params=replace(job.params, num_inference_steps=5))
    )
    first, second = (job.terms for job in stages.started)
    assert (first.refuses_late, first.is_promised) == (True, False)
    assert (second.refuses_late, second.is_promised) == (False, True)


async def test_a_refused_deadline_says_when_files_and_not_latents_could_be_there() -> None:
    async def slow(job: LatentJob) -> None:
        await asyncio.sleep(0.02)

    async def refuse(job: LatentJob) -> None:
        raise _task_error(DeadlineUnreachable("no", earliest_s=2.0, retry_after_s=0.5))

    stages = FakeStages(on_decode=slow)
    graph = Graph(stages.handles())
    await graph.generate(_job())
    stages.on_denoise = refuse
    with pytest.raises(DeadlineUnreachable) as caught:
        await graph.generate(_job())
    assert 2.01 < caught.value.earliest_s < 12
    assert caught.value.retry_after_s == 0.5


async def test_readiness_is_by_stage_and_does_not_wait_for_ever() -> None:
    assert await Graph(FakeStages().handles()).ready() == {
        "TextEncoder": True,
        "ImageEncoder": True,
        "Denoiser": True,
        "VaeDecoder": True,
        "SafetyClassifier": True,
        "Finisher": True,
    }
    answers = await Graph(FakeStages(is_ready=False).handles()).ready()
    assert set(answers.values()) == {False}
