"""Replicas that die or go away, as the graph meets them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

import deployments.graph.attempts
from deployments.graph.attempts import MAX_ATTEMPTS
from deployments.graph.graph import Graph
from deployments.wire.packed import PackedLatents
from pipelines.contracts import GenerationResult, LatentJob, ServiceTerms, TextPrompt
from pipelines.errors import StageFailed
from pipelines.tracing.open_spans import OpenSpan
from pipelines.tracing.spans import linked
from tests.deployments.driver import make_job
from tests.deployments.fakes import FakeStages, GoesAway


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployments.graph.attempts, "RETRY_PAUSE_S", 0.0)


async def _generate(stages: FakeStages, **changes: Any) -> GenerationResult:
    return await Graph(stages.handles()).generate(make_job(prompt="a cat", seed=10, **changes))


async def test_a_death_is_survived_and_only_its_image_is_drawn_again() -> None:
    deaths = 0

    async def die_twice(job: LatentJob) -> None:
        nonlocal deaths
        if job.sampling.seed == 11 and deaths < MAX_ATTEMPTS - 1:
            deaths += 1
            raise ActorDiedError()

    stages = FakeStages(on_denoise=die_twice)
    result = await _generate(stages, num_images=2)
    assert [image.seed for image in result.images] == [10, 11]
    assert [job.sampling.seed for job in stages.started].count(11) == MAX_ATTEMPTS
    assert [job.sampling.seed for job in stages.started].count(10) == 1
    assert len({job.work_id for job in stages.started}) == MAX_ATTEMPTS + 1
    assert result.resumed_at == (0, 0)


async def test_a_trace_tells_of_the_attempt_that_was_lost_and_of_the_pause_after_it() -> None:
    deaths = iter([ActorDiedError()])

    async def die_once(_: LatentJob) -> None:
        if (death := next(deaths, None)) is not None:
            raise death

    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    log = OpenSpan("request")
    job = replace(make_job(prompt="a cat"), trace=trace)
    await Graph(FakeStages(on_denoise=die_once).handles()).generate(job, log)
    (image,) = (part for part in log.span().children if part.name == "image")
    lost, again = (part for part in image.children if part.name == "denoise")
    assert lost.error == "a replica of Denoiser was lost"
    assert [part.name for part in lost.children].count("denoise.lost") == 1
    assert again.links == (linked(trace, lost.id),)
    assert not any(part.name == "denoise.lost" for part in again.children)
    (pause,) = (part for part in image.children if part.name == "retry.wait")
    assert lost.end_ns <= pause.start_ns <= pause.end_ns <= again.start_ns


async def test_a_death_of_a_decoder_repeats_only_the_decoding() -> None:
    async def die_twice(job: LatentJob) -> None:
        if job.sampling.seed == 11 and stages.decoded < MAX_ATTEMPTS:
            raise ActorDiedError()

    stages = FakeStages(on_decode=die_twice)
    result = await _generate(stages, num_images=2, steps=5)
    assert [image.seed for image in result.images] == [10, 11]
    assert len(stages.started) == 2
    assert stages.decoded > 2
    assert result.resumed_at == ()


async def test_a_death_in_the_middle_goes_on_from_the_last_checkpoint() -> None:
    async def die_at_seven(job: LatentJob, step: int) -> None:
        if step == 7 and len(stages.started) == 1:
            raise ActorDiedError()

    stages = FakeStages(on_step=die_at_seven, checkpoint_every=3)
    result = await _generate(stages, steps=10)
    assert [step for _, step in stages.steps] == [1, 2, 3, 4, 5, 6, 7, 7, 8, 9, 10]
    assert result.resumed_at == (6,)
    assert result.images[0].steps_run == 10
    assert stages.encoded == ["a cat"] * 2  # the first one may have died with its replica


async def test_deaths_that_leave_progress_are_not_counted() -> None:
    async def die_often(job: LatentJob, step: int) -> None:
        if stages.steps.count((job.sampling.seed, step)) == 1 and step % 2:
            raise ActorDiedError()

    stages = FakeStages(on_step=die_often, checkpoint_every=1)
    result = await _generate(stages, steps=20)
    assert result.resumed_at == tuple(range(0, 20, 2))


async def test_deaths_at_one_step_are_counted() -> None:
    async def die_at_four(job: LatentJob, step: int) -> None:
        if step == 4:
            raise ActorDiedError()

    stages = FakeStages(on_step=die_at_four)
    with pytest.raises(StageFailed) as caught:
        await _generate(stages, steps=6)
    assert caught.value.stage == "Denoiser"
    assert stages.steps.count((10, 4)) == MAX_ATTEMPTS + 1  # the first one left progress
    assert stages.steps.count((10, 1)) == 1


async def test_a_handover_repeats_no_step_and_is_never_counted() -> None:
    async def go_away_often(job: LatentJob, step: int) -> None:
        if step < 10:
            raise GoesAway

    stages = FakeStages(on_step=go_away_often, checkpoint_every=100)
    result = await _generate(stages, steps=10)
    assert [step for _, step in stages.steps] == list(range(1, 11))
    assert result.resumed_at == tuple(range(1, 10))


async def test_a_replica_that_is_about_to_go_is_asked_again_until_another_one_is_up() -> None:
    async def nobody_is_up(job: LatentJob) -> None:
        if len(stages.started) < 2 * MAX_ATTEMPTS:
            raise GoesAway

    stages = FakeStages(on_denoise=nobody_is_up)
    result = await _generate(stages)
    assert len(result.images) == 1
    assert [step for _, step in stages.steps] == [1, 2]
    assert result.resumed_at == ()


async def test_a_stream_that_ends_early_is_a_loss() -> None:
    class EndsEarly(FakeStages):
        async def denoise(self, job: LatentJob, *args: str, **kwargs: Any) -> Any:
            async for item in super().denoise(job, *args, **kwargs):
                if len(self.started) == 1 and isinstance(item, PackedLatents):
                    return
                yield item

    stages = EndsEarly()
    result = await _generate(stages, steps=3)
    assert result.resumed_at == (2,)
    assert [step for _, step in stages.steps] == [1, 2, 3, 3]


async def test_an_image_that_was_accepted_is_not_refused_when_its_replica_dies() -> None:
    async def die_once(job: LatentJob) -> None:
        if len(stages.started) == 1:
            raise ActorDiedError()

    stages = FakeStages(on_denoise=die_once)
    terms = ServiceTerms(deadline=1e9, refuses_late=True)
    await Graph(stages.handles()).generate(replace(make_job(), terms=terms))
    assert [job.terms.refuses_late for job in stages.started] == [True, False]
    assert {job.terms.deadline for job in stages.started} == {1e9}


async def test_a_death_of_the_encoder_is_survived() -> None:
    deaths = 0

    async def die_once(prompt: TextPrompt) -> None:
        nonlocal deaths
        del prompt
        deaths += 1
        if deaths == 1:
            raise ActorDiedError()

    result = await _generate(FakeStages(on_encode=die_once), num_images=2)
    assert len(result.images) == 2
    assert result.usage.input_tokens == len("a cat")


async def test_deaths_without_end_are_the_stages_failure() -> None:
    async def die(job: LatentJob) -> None:
        del job
        error = ActorDiedError()
        error.error_msg = "\tclass_name: ServeReplica:default:Denoiser\n"
        raise error

    stages = FakeStages(on_denoise=die)
    with pytest.raises(StageFailed) as caught:
        await _generate(stages)
    assert caught.value.stage == "Denoiser"
    assert len(stages.started) == MAX_ATTEMPTS


async def test_a_cancellation_by_the_replica_is_not_taken_for_our_own() -> None:
    cancellations = 0

    async def drop_once(job: LatentJob) -> None:
        nonlocal cancellations
        del job
        cancellations += 1
        if cancellations == 1:
            raise asyncio.CancelledError

    result = await _generate(FakeStages(on_decode=drop_once))
    assert len(result.images) == 1
    assert cancellations == 2
