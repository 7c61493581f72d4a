"""Requests that are taken up again: what was done is not done again, and the rest as it was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

import deployments.graph.attempts
from deployments.graph.graph import Graph
from deployments.graph.listening.events import Phase
from deployments.wire.parts import Part
from pipelines.contracts import GenerationJob, GenerationResult, LatentJob, ServiceTerms
from pipelines.tracing.open_spans import OpenSpan
from tests.deployments.driver import make_job
from tests.deployments.fakes import FakeStages
from tests.listeners import Heard


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployments.graph.attempts, "RETRY_PAUSE_S", 0.0)


JOB = make_job(prompt="a cat", seed=10, steps=6, num_images=2)


async def _generate(
    stages: FakeStages,
    heard: Heard | None = None,
    job: GenerationJob = JOB,
    **asked: Any,
) -> GenerationResult:
    graph = Graph(stages.handles())
    listener = heard or Heard(wants_checkpoints=True)
    return await graph.generate(job, OpenSpan("test"), listener, **asked)


async def test_checkpoints_and_drawn_images_are_told_to_who_wants_them() -> None:
    heard = Heard(wants_checkpoints=True)
    result = await _generate(FakeStages(), heard)
    for image in range(2):
        of_image = [each.checkpoint.step for each in heard.checkpoints if each.image == image]
        assert of_image == [2, 4]
    assert {each.image: each.file for each in heard.drawn} == dict(enumerate(result.images))
    assert heard.drawn[0].prompts[0].num_tokens == len("a cat")
    silent = Heard()
    await _generate(FakeStages(), silent)
    assert silent.events == silent.progress == heard.progress


async def test_a_checkpoint_is_told_once_whatever_is_done_again() -> None:
    async def die(job: LatentJob, step: int) -> None:
        if step == 5 and len(stages.started) == 1:
            raise ActorDiedError

    stages, heard = FakeStages(on_step=die), Heard(wants_checkpoints=True)
    await _generate(stages, heard, make_job(steps=6))
    assert [each.checkpoint.step for each in heard.checkpoints] == [2, 4]


async def test_images_go_on_from_where_they_were() -> None:
    before = Heard(wants_checkpoints=True)
    whole = await _generate(FakeStages(), before)
    drawn = next(part for part in before.drawn if part.image == 0)
    checkpoint = next(part for part in before.checkpoints if part.image == 1)
    parts: dict[int, Part] = {0: drawn, 1: checkpoint}
    stages, heard = FakeStages(), Heard(wants_checkpoints=True)
    terms = ServiceTerms(deadline=1.0, refuses_late=True)
    result = await _generate(stages, heard, replace(JOB, terms=terms), resume=parts)
    assert stages.steps == [(11, step) for step in (3, 4, 5, 6)]
    assert result.images == whole.images
    assert (result.usage, result.warnings) == (whole.usage, whole.warnings)
    assert result.resumed_at == (2,)
    (job,) = stages.started
    # Accepted before, so it is not refused any more, and keeps what it was promised.
    assert (job.terms.refuses_late, job.terms.is_promised) == (False, True)
    assert [(each.phase, each.step) for each in heard.progress if each.image == 0] == [
        (Phase.DONE, 6)
    ]
    assert [each.step for each in heard.progress if each.image == 1] == [2, 4, 6, 6, 6, 6]
    assert [(each.image, each.checkpoint.step) for each in heard.checkpoints] == [(1, 4)]
    assert [each.image for each in heard.drawn] == [1]


async def test_of_a_request_that_is_all_drawn_no_stage_is_asked() -> None:
    before = Heard(wants_checkpoints=True)
    whole = await _generate(FakeStages(), before)
    stages = FakeStages()
    parts = {part.image: part for part in before.drawn}
    result = await _generate(stages, resume=parts)
    assert result.images == whole.images
    assert (result.usage, result.warnings) == (whole.usage, whole.warnings)
    assert (stages.encoded, stages.started, stages.decoded, stages.finished) == ([], [], 0, [])


async def test_parts_of_another_request_are_refused() -> None:
    before = Heard(wants_checkpoints=True)
    await _generate(FakeStages(), before)
    with pytest.raises(ValueError, match=r"resume: has images \[2\] of a request of 2"):
        await _generate(FakeStages(), resume={2: before.drawn[0]})
