"""A trajectory's life: cut, checkpointed, resumed, failed, weighed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.contracts import (
    Checkpoint,
    Conditioning,
    Cut,
    DecodedImage,
    GenerationParams,
    LatentJob,
    SamplingParams,
    TextPrompt,
)
from pipelines.cuts import check_cuts, redrawn_by
from pipelines.errors import DegenerateImage, InvalidRequest, UnsupportedFeature
from pipelines.flux1.schedule import make_schedule
from pipelines.skipping import evaluated_steps
from pipelines.stages.denoiser import DenoiserStage
from pipelines.stages.text_encoder import TextEncoderStage
from pipelines.stages.trajectory import Trajectory
from pipelines.stages.vae_decoder import VaeDecoderStage
from tests.jobs import with_sampling
from tests.memory import PeakMemory, storage_bytes
from tests.oracle import compare, oracle_images
from tests.properties import examples

JOB = LatentJob(
    work_id="a",
    group="a",
    sampling=SamplingParams(height=64, width=48, num_inference_steps=7, guidance_scale=3.5, seed=3),
)
Texts = tuple[Conditioning, Conditioning | None]


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def stages(dev_like: Path, request: pytest.FixtureRequest) -> tuple[DenoiserStage, DenoiserStage]:
    """Two replicas of one model."""
    first, second = (DenoiserStage.load(str(dev_like), dtype=request.param) for _ in range(2))
    return first, second


@pytest.fixture(scope="module")
def stage(dev_like: Path) -> DenoiserStage:
    return DenoiserStage.load(str(dev_like))


def texts(stage: DenoiserStage, *, guided: bool = False) -> Texts:
    torch.manual_seed(1)
    return stage.random_conditioning(8), stage.random_conditioning(8) if guided else None


def finished(stage: DenoiserStage, trajectory: Trajectory) -> torch.Tensor:
    while not trajectory.is_done:
        stage.tick([trajectory])
    return stage.finish(trajectory).packed


@given(
    guided=st.booleans(),
    num_steps=st.integers(1, 9),
    cuts=st.dictionaries(st.integers(0, 5), st.integers(1, 8), max_size=3),
    stops=st.sets(st.integers(0, 8), max_size=3),
)
@settings(
    max_examples=examples(10),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_resumed_elsewhere_it_ends_with_the_same_bits(
    stages: tuple[DenoiserStage, DenoiserStage],
    guided: bool,
    num_steps: int,
    cuts: dict[int, int],
    stops: set[int],
) -> None:
    job = with_sampling(JOB, num_inference_steps=num_steps, true_cfg_scale=2.0 if guided else 1.0)
    here, there = stages
    conditionings = texts(here, guided=guided)

    def run(stops: set[int]) -> tuple[torch.Tensor, int]:
        stage, trajectory = here, here.admit(job, *conditionings)
        while not trajectory.is_done:
            wanted = cuts.get(trajectory.step, 0)
            if trajectory.step < wanted < trajectory.num_steps:
                stage.cut(trajectory, wanted)
            if trajectory.step in stops:
                start = stage.checkpoint(trajectory)
                stage = there if stage is here else here
                trajectory = stage.admit(job, *conditionings, start)
                assert (trajectory.step, trajectory.cuts) == (start.step, start.cuts)
            stage.tick([trajectory])
        latents = stage.finish(trajectory)
        assert latents.steps_run == trajectory.num_steps
        return latents.packed, latents.steps_run

    undisturbed, steps = run(set())
    disturbed, same_steps = run(stops)
    assert undisturbed.std() > 0.1
    assert torch.equal(undisturbed, disturbed)
    assert steps == same_steps


@given(
    guided=st.booleans(),
    num_steps=st.integers(1, 14),
    wanted=st.dictionaries(st.integers(0, 8), st.integers(1, 12), max_size=3),
    stop=st.integers(0, 8),
)
@settings(
    max_examples=examples(10),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_planned_cuts_draw_what_cuts_on_the_way_drew(
    stages: tuple[DenoiserStage, DenoiserStage],
    guided: bool,
    num_steps: int,
    wanted: dict[int, int],
    stop: int,
) -> None:
    job = with_sampling(JOB, num_inference_steps=num_steps, true_cfg_scale=2.0 if guided else 1.0)
    here, there = stages
    conditionings = texts(here, guided=guided)
    cut = here.admit(job, *conditionings)
    while not cut.is_done:
        if cut.step < wanted.get(cut.step, 0) < cut.num_steps:
            here.cut(cut, wanted[cut.step])
        here.tick([cut])
    first = here.finish(cut)
    num_steps, planned = redrawn_by(num_steps, first.cuts)
    again = with_sampling(job, num_inference_steps=num_steps, planned_cuts=planned)
    assert here.forwards(again) == first.steps_run
    moving = there.admit(again, *conditionings)
    while not moving.is_done:
        if moving.step == stop:
            moving = here.admit(again, *conditionings, there.checkpoint(moving))
        there.tick([moving])
    second = there.finish(moving)
    assert torch.equal(first.packed, second.packed)
    assert (second.steps_run, redrawn_by(num_steps, second.cuts)[1]) == (first.steps_run, planned)


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize(("planned", "kept_at"), [((), 3), (((2, 6),), 4), (((4, 6),), 2)])
def test_what_is_kept_is_the_predicted_image_and_is_drawn_again(
    stages: tuple[DenoiserStage, DenoiserStage],
    guided: bool,
    planned: tuple[tuple[int, int], ...],
    kept_at: int,
) -> None:
    """Before a planned cut or after it, and after a move with the cut already made."""
    here, there = stages
    job = with_sampling(
        JOB,
        num_inference_steps=9,
        true_cfg_scale=2.0 if guided else 1.0,
        planned_cuts=tuple(Cut(*cut) for cut in planned),
    )
    conditionings = texts(here, guided=guided)
    kept = here.admit(job, *conditionings)
    for _ in range(kept_at):
        here.tick([kept])
    here.cut(kept, kept_at + 1)
    assert kept.schedule.sigmas[kept_at + 1] == 0
    before, sigma = kept.latents.clone(), kept.schedule.sigmas[kept_at]
    (velocity,) = here._velocities([kept])
    moved = there.admit(job, *conditionings, here.checkpoint(kept))
    here.tick([kept])
    there.tick([moved])
    result = here.finish(kept)
    assert torch.allclose(result.packed, before - sigma * velocity, atol=1e-6)
    assert torch.equal(there.finish(moved).packed, result.packed)
    num_steps, cuts = redrawn_by(9, result.cuts)
    check_cuts(num_steps, cuts)
    again = with_sampling(job, num_inference_steps=num_steps, planned_cuts=cuts)
    redrawn = there.admit(again, *conditionings)
    assert torch.equal(finished(there, redrawn), result.packed)
    assert there.finish(redrawn).cuts == cuts


@pytest.mark.parametrize("num_steps", [2, 10, 13])
def test_skipping_resumes_after_every_step(
    stages: tuple[DenoiserStage, DenoiserStage], num_steps: int
) -> None:
    job = with_sampling(JOB, num_inference_steps=num_steps, skips_steps=True)
    here, there = stages
    conditionings = texts(here)
    undisturbed = here.admit(job, *conditionings)
    expected = finished(here, undisturbed)
    assert undisturbed.step == here.forwards(job) == len(evaluated_steps(num_steps))
    moving, kept = here.admit(job, *conditionings), 0
    while not moving.is_done:
        start = here.checkpoint(moving)
        kept += start.velocity is not None
        moving = there.admit(job, *conditionings, start)
        there.tick([moving])
    assert torch.equal(there.finish(moving).packed, expected)
    assert kept == sum(share != 0 for share in moving.schedule.forecasts)
    if num_steps > 9:
        assert kept >= 2


def test_skipping_walks_the_full_schedule_and_forecasts(stage: DenoiserStage) -> None:
    """Against a plain loop over all steps, with a forecast velocity where there is no forward."""
    job = with_sampling(JOB, num_inference_steps=12, skips_steps=True)
    conditionings = texts(stage)
    ours = stage.admit(job, *conditionings)
    full = stage.admit(with_sampling(job, skips_steps=False), *conditionings)
    model: Any = stage._model
    config = model.scheduler_config
    schedule = make_schedule(config, num_steps=12, image_tokens=12, device=torch.device("cpu"))
    sigmas, forwards = schedule.sigmas, 0
    history: list[tuple[torch.Tensor, torch.Tensor]] = []
    with torch.inference_mode():
        for step in range(12):
            full.step = step
            if step in evaluated_steps(12):
                history.append((sigmas[step], stage._velocities([full])[0]))
                forwards += 1
            (level, velocity) = history[-1]
            if forwards > 3:
                before, old = history[-2]
                share = 0.5 * (sigmas[step] - level) / (level - before)
                velocity = velocity + share * (velocity - old)
            full.latents = full.latents + (sigmas[step + 1] - sigmas[step]) * velocity
    assert torch.allclose(finished(stage, ours), full.latents, atol=2e-5)


def test_cut_before_its_first_step_it_is_the_shorter_request(stage: DenoiserStage) -> None:
    conditionings = texts(stage)
    trajectory = stage.admit(JOB, *conditionings)
    stage.cut(trajectory, 4)
    shorter = stage.admit(with_sampling(JOB, num_inference_steps=4), *conditionings)
    assert torch.equal(trajectory.schedule.sigmas, shorter.schedule.sigmas)
    assert torch.equal(finished(stage, trajectory), finished(stage, shorter))


def test_cut_before_its_first_step_it_is_the_pipelines_shorter_image(dev_like: Path) -> None:
    params = GenerationParams(
        prompt="a red cat",
        height=64,
        width=96,
        num_inference_steps=9,
        guidance_scale=3.5,
        seed=5,
        max_sequence_length=16,
    )
    prompt = TextPrompt(prompt=params.prompt, max_sequence_length=16)
    (conditioning,) = TextEncoderStage.load(str(dev_like)).encode([prompt])
    stage = DenoiserStage.load(str(dev_like))
    job = LatentJob.of(params, 0, group="a", work_id="a")
    trajectory = stage.admit(job, conditioning, None)
    stage.cut(trajectory, 4)
    finished(stage, trajectory)
    (image,) = VaeDecoderStage.load(str(dev_like)).decode([stage.finish(trajectory)])
    (reference,) = oracle_images(dev_like, replace(params, num_inference_steps=4))
    (uncut,) = oracle_images(dev_like, params)
    assert isinstance(image, DecodedImage)
    assert compare(image.pixels, reference).is_exact
    assert not compare(image.pixels, uncut).is_exact


@pytest.mark.parametrize("num_steps", [2, 7, 8, 0])
def test_a_cut_must_shorten_what_is_left(stage: DenoiserStage, num_steps: int) -> None:
    trajectory = stage.admit(JOB, *texts(stage))
    stage.tick([trajectory])
    stage.tick([trajectory])
    with pytest.raises(ValueError, match="does not shorten a schedule of 7 steps"):
        stage.cut(trajectory, num_steps)
    assert (trajectory.num_steps, trajectory.cuts) == (7, ())


def test_what_cannot_be_cut_is_refused_when_it_comes_in(dev_like: Path) -> None:
    stage = DenoiserStage.load(str(dev_like))
    model: Any = stage._model
    model.scheduler_config = {**model.scheduler_config, "use_karras_sigmas": True}
    with pytest.raises(UnsupportedFeature, match=r"min_steps.*use_karras_sigmas"):
        stage.admit(with_sampling(JOB, min_inference_steps=3), *texts(stage))
    trajectory = stage.admit(JOB, *texts(stage))
    stage.tick([trajectory])
    with pytest.raises(UnsupportedFeature):
        stage.cut(trajectory, 5)
    assert not stage.can_cut(JOB)


def test_a_schedule_that_skips_is_not_cut(stage: DenoiserStage) -> None:
    trajectory = stage.admit(with_sampling(JOB, skips_steps=True), *texts(stage))
    with pytest.raises(ValueError, match="planned to be short"):
        stage.cut(trajectory, 2)
    assert not stage.can_cut(trajectory.job)
    assert stage.can_cut(JOB)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents": torch.zeros(13, 64)}, r"latents.*\(13, 64\)"),
        ({"latents": torch.zeros(12, 64, dtype=torch.bfloat16)}, "bfloat16.*same model and dtype"),
        ({"latents": torch.zeros(12, 64, 1)}, r"\(12, 64, 1\)"),
        ({"step": 8}, "step 8.*0..6"),
        ({"step": -1}, "step -1"),
        ({"cuts": ((2, 5),), "step": 1}, "step 1.*2..4"),
        ({"cuts": ((2, 9),)}, "does not shorten"),
        ({"velocity": torch.zeros(1, 64)}, "velocity"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    stage: DenoiserStage, changes: dict[str, Any], message: str
) -> None:
    changes = {"step": 3, "latents": torch.zeros(12, 64), **changes}
    if "cuts" in changes:
        changes["cuts"] = tuple(Cut(*cut) for cut in changes["cuts"])
    with pytest.raises(ValueError, match=message):
        stage.admit(JOB, *texts(stage), Checkpoint(work_id="a", **changes))


def test_a_checkpoint_without_its_velocity_is_refused(stage: DenoiserStage) -> None:
    job = with_sampling(JOB, num_inference_steps=10, skips_steps=True)
    trajectory = stage.admit(job, *texts(stage))
    for _ in range(3):
        stage.tick([trajectory])
    start = stage.checkpoint(trajectory)
    assert start.velocity is not None
    with pytest.raises(InvalidRequest, match="lacks the velocity"):
        stage.admit(job, *texts(stage), replace(start, velocity=None))


@pytest.mark.parametrize("where", ["text", "modulation", "latents"])
def test_values_that_are_not_finite_stay_in_their_trajectory(
    stages: tuple[DenoiserStage, DenoiserStage], where: str
) -> None:
    stage, _ = stages
    conditionings = texts(stage, guided=True)
    jobs = [
        JOB,
        replace(with_sampling(JOB, true_cfg_scale=2.0), work_id="bad"),
        replace(with_sampling(JOB, width=96, true_cfg_scale=2.0), work_id="c"),
    ]

    def run(*, poison: bool) -> list[Trajectory]:
        works = [stage.admit(job, *conditionings) for job in jobs]
        if poison:
            bad, (segment, *others) = works[1], works[1].segments
            # Its own: the two with one prompt share their modulation.
            segment = segment._replace(txt=segment.txt.clone(), vec=segment.vec.clone())
            bad.segments = (segment, *others)
            values = {"text": segment.txt[1], "modulation": segment.vec[1], "latents": bad.latents}
            values[where][0] = torch.inf
        for _ in range(3):
            stage.tick(works)
        return works

    with torch.inference_mode():
        clean, poisoned = run(poison=False), run(poison=True)
    for index in (0, 2):
        assert torch.equal(clean[index].latents, poisoned[index].latents)
    with pytest.raises(DegenerateImage):
        stage.checkpoint(poisoned[1])
    with pytest.raises(DegenerateImage):
        stage.finish(poisoned[1])


def test_text_that_is_not_finite_is_refused_at_once(stage: DenoiserStage) -> None:
    positive, negative = texts(stage, guided=True)
    assert negative is not None
    negative.tensors["prompt_embeds"][2, 2] = torch.nan
    with pytest.raises(DegenerateImage, match="text encoder"):
        stage.admit(with_sampling(JOB, true_cfg_scale=2.0), positive, negative)


def test_a_negative_prompt_of_another_length_is_refused(stage: DenoiserStage) -> None:
    positive, _ = texts(stage)
    with pytest.raises(InvalidRequest, match="7 tokens, the prompt 8"):
        stage.admit(with_sampling(JOB, true_cfg_scale=2.0), positive, stage.random_conditioning(7))


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("skips_steps", [False, True])
def test_a_trajectory_weighs_what_it_was_said_to(
    stages: tuple[DenoiserStage, DenoiserStage], guided: bool, skips_steps: bool
) -> None:
    stage, _ = stages
    job = with_sampling(
        JOB, num_inference_steps=12, true_cfg_scale=2.0 if guided else 1.0, skips_steps=skips_steps
    )
    conditionings = texts(stage, guided=guided)
    trajectory = stage.admit(job, *conditionings)
    for _ in range(4):
        stage.tick([trajectory])
    held = [trajectory.latents, *trajectory.segments[0].rope]
    held += [each for part in trajectory.segments for each in part if torch.is_tensor(each)]
    if trajectory.velocity is not None:
        held.append(trajectory.velocity)
    assert (trajectory.velocity is not None) == skips_steps
    assert storage_bytes(held) == stage.trajectory_bytes(job, *conditionings)
    assert stage.segments(job, *conditionings) == (20,) * (2 if guided else 1)


@pytest.mark.parametrize("sizes", [[(512, 512)], [(256, 256)] * 4, [(64, 64), (512, 256)]])
def test_a_tick_fits_into_what_it_was_said_to_take(
    stages: tuple[DenoiserStage, DenoiserStage], sizes: list[tuple[int, int]]
) -> None:
    stage, _ = stages
    conditionings = stage.random_conditioning(64), None
    jobs = [with_sampling(JOB, height=height, width=width) for height, width in sizes]
    works = [stage.admit(job, *conditionings) for job in jobs]
    tokens = sum(sum(stage.segments(job, *conditionings)) for job in jobs)
    stage.tick(works)
    with PeakMemory() as memory:
        stage.tick(works)
    assert 0.3 * stage.tick_bytes(tokens) < memory.peak <= stage.tick_bytes(tokens)


def test_images_of_one_prompt_share_their_modulation_and_others_do_not(
    stage: DenoiserStage,
) -> None:
    here, other = texts(stage)[0], stage.random_conditioning(8)
    first, second = (
        stage.admit(replace(with_sampling(JOB, seed=seed), work_id=str(seed)), here, None)
        for seed in range(2)
    )
    (shared,) = {trajectory.segments[0].vec.data_ptr() for trajectory in (first, second)}
    different = [
        stage.admit(JOB, other, None),
        stage.admit(with_sampling(JOB, num_inference_steps=6), here, None),
        stage.admit(with_sampling(JOB, guidance_scale=2.0), here, None),
    ]
    stage.cut(second, 3)
    for trajectory in (*different, second):
        assert trajectory.segments[0].vec.data_ptr() != shared
    # One goes its own way, and the other still steps as if it were alone.
    assert torch.equal(finished(stage, first), finished(stage, stage.admit(first.job, here, None)))
