"""A family that is nothing like FLUX.1, through the same stages and the same engine."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import numpy as np
import pytest
import torch

from pipelines import families
from pipelines.catalog import find, models
from pipelines.contracts import (
    Conditioning,
    GenerationParams,
    LatentJob,
    SamplingParams,
    ServiceTerms,
)
from pipelines.engine.costs.calibrate import choose_shapes, measure
from pipelines.errors import ConfigurationError, InvalidRequest
from pipelines.families import family_of
from pipelines.job_shape import shape_of
from pipelines.local import LocalChain
from pipelines.stages.denoiser import DenoiserStage
from pipelines.stages.trajectory import Trajectory
from tests.jobs import with_sampling
from tests.pipelines.engine.play import NEVER, Play, Request, ScriptedStage
from tests.pipelines.second_family import (
    FAMILY,
    NAME,
    PackedMadeUp,
    Squares,
    Words,
    conditioning,
    made_up_spec,
    naive_latents,
    random_weights,
    registered,
)

WEIGHTS = random_weights()
# Relative to the largest latent: a few hundred sums in another order, in float32, as for FLUX.1
# (`flux1/test_transformer.py`), over several steps.
TOLERANCE = 2e-5


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    with registered():
        yield


class RaggedRequest(Request):
    """Its negative prompt has another length than its prompt."""

    @cached_property
    def positive(self) -> Conditioning:
        return conditioning(self.seed, self.text_tokens)

    @cached_property
    def negative(self) -> Conditioning | None:
        if not self.is_guided:
            return None
        return conditioning(self.seed + 1000, self.text_tokens + 3)


def requests(count: int, seed: int) -> list[RaggedRequest]:
    """Of any kind: sizes, lengths, steps, guidance, skipped steps; half come later."""
    dice = random.Random(seed)
    return [
        RaggedRequest(
            job=LatentJob(
                work_id=str(index),
                group=str(index),
                sampling=SamplingParams(
                    height=32 * dice.randint(1, 4),
                    width=32 * dice.randint(1, 5),
                    num_inference_steps=dice.randint(2, 8),
                    guidance_scale=1.0,
                    true_cfg_scale=2.5,
                    skips_steps=dice.random() < 0.3,
                    seed=index,
                    family=NAME,
                ),
                terms=ServiceTerms(deadline=2e9 - index, priority=index // 4),
            ),
            text_tokens=dice.randint(1, 12),
            is_guided=index % 3 == 0,
            comes=0 if index < count // 2 else 3,
            is_cancelled=6 if index == 5 else NEVER,
        )
        for index in range(count)
    ]


def expected(request: Request) -> torch.Tensor:
    return naive_latents(WEIGHTS, request.job, request.positive, request.negative)


def check(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    assert theirs.std() > 0.1
    assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max()


def step_all(stage: DenoiserStage, works: list[Trajectory]) -> None:
    while left := [work for work in works if not work.is_done]:
        stage.tick(left)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 16])
def test_packed_with_any_others_each_is_the_naive_one(count: int) -> None:
    stage = DenoiserStage(PackedMadeUp(WEIGHTS))
    drawn = requests(count, count)
    works = [stage.admit(each.job, each.positive, each.negative) for each in drawn]
    step_all(stage, works)
    for request, work in zip(drawn, works, strict=True):
        check(stage.finish(work).packed, expected(request))


def test_segments_of_one_trajectory_may_differ_in_length() -> None:
    stage = DenoiserStage(PackedMadeUp(WEIGHTS))
    (request,) = requests(1, 0)
    image = (request.job.sampling.height // 32) * (request.job.sampling.width // 32)
    text = request.text_tokens
    segments = stage.segments(request.job, request.positive, request.negative)
    assert segments == (text + image, text + 3 + image)


@pytest.mark.parametrize("policy", ["srpt", "edf"])
def test_preempted_parked_and_moved_each_is_the_naive_one(policy: str) -> None:
    stages = [ScriptedStage(PackedMadeUp(WEIGHTS)) for _ in range(2)]
    drawn = requests(12, 7)
    play = Play(stages, drawn, policy, hand_over_at=10)  # type: ignore[arg-type]
    results = play.run()
    assert set(results) | {"5"} == {request.job.work_id for request in drawn}
    assert len(play.resumed) >= 2
    assert any(len(tick) > 1 for tick in play.ticks)
    for request in drawn:
        if request.job.work_id in results:
            check(results[request.job.work_id].packed, expected(request))


def test_a_checkpoint_and_a_planned_cut_go_on_to_the_same_bits() -> None:
    stage = DenoiserStage(PackedMadeUp(WEIGHTS))
    request = requests(1, 0)[0]
    job = with_sampling(request.job, num_inference_steps=8, skips_steps=False)
    texts = request.positive, request.negative
    work = stage.admit(job, *texts)
    for _ in range(3):
        stage.tick([work])
    stage.cut(work, 6)
    stage.tick([work])
    resumed = stage.admit(job, *texts, stage.checkpoint(work))
    step_all(stage, [work])
    step_all(stage, [resumed])
    planned = stage.admit(with_sampling(job, planned_cuts=work.cuts), *texts)
    step_all(stage, [planned])
    assert work.step == 6
    assert torch.equal(resumed.latents, work.latents)
    assert torch.equal(planned.latents, work.latents)


def test_the_whole_chain_is_loaded_through_the_models_family() -> None:
    spec = made_up_spec()
    params = GenerationParams(
        prompt="a red fox in the snow",
        negative_prompt="blurry",
        height=64,
        width=96,
        num_inference_steps=4,
        guidance_scale=1.0,
        true_cfg_scale=1.5,
        seed=3,
        num_images=2,
        max_sequence_length=spec.max_sequence_length,
        family=spec.family,
    )
    images = LocalChain.load(spec).generate(params)
    positive, negative = Words().encode([params.prompt, "blurry"], 16)
    assert positive.sequence_length == 6 != negative.sequence_length
    for index, image in enumerate(images):
        job = LatentJob.of(params, index, group="", work_id="")
        latents = naive_latents(WEIGHTS, job, positive, negative)
        (values,) = Squares().decode([latents], 64, 96)
        levels = ((values / 2 + 0.5) * 255).round().permute(1, 2, 0).numpy()
        assert np.abs(image.pixels - levels).max() <= 1


def test_work_is_counted_in_the_familys_tokens() -> None:
    spec = made_up_spec()
    (request,) = requests(1, 1)
    job = with_sampling(request.job, height=64, width=96)
    assert family_of(spec) is FAMILY
    assert shape_of(job.sampling).image_tokens == 6
    assert shape_of(with_sampling(job, family="flux1").sampling).image_tokens == 24
    mixes = choose_shapes(spec)
    assert all(side % 32 == 0 for mix in mixes for shape in mix for side in shape[:2])
    stage = DenoiserStage(PackedMadeUp(WEIGHTS))
    points = measure(stage, mixes[:1], text_tokens=5, family=NAME, budget_s=0.0)
    assert points[0].lengths == (5 + 4,)


def test_a_job_of_another_family_is_refused() -> None:
    (request,) = requests(1, 1)
    stage = DenoiserStage(PackedMadeUp(WEIGHTS))
    with pytest.raises(InvalidRequest, match=r"family flux1.*made-up"):
        stage.admit(with_sampling(request.job, family="flux1"), request.positive, None)


def test_every_model_of_the_catalogue_has_a_family() -> None:
    for spec in models().values():
        assert family_of(spec).name == spec.family
    with pytest.raises(ConfigurationError, match=r"no family is called 'flux3'; known: flux1"):
        family_of(replace(find("sluice-shapes"), family="flux3"))
    with pytest.raises(ConfigurationError, match=r"'flux1' is .* already"):
        families.register("flux1", "elsewhere:FAMILY")
