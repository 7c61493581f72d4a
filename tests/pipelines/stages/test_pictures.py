"""What the denoiser refuses of pictures, and what it asks for where it has to be measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.engine.costs.calibrate import measure
from pipelines.engine.costs.surface import CostSurface
from pipelines.engine.engine import Engine
from pipelines.engine.scheduling.scheduler import Scheduler
from pipelines.errors import (
    CheckpointError,
    DegenerateImage,
    InvalidRequest,
    UnsupportedFeature,
)
from pipelines.flux1.checkpoint import load_controlnet, load_redux, load_vae_encoder
from pipelines.stages.denoiser import DenoiserStage
from pipelines.tasks import PictureRole, PictureUse, Task
from tests.jobs import with_sampling
from tests.tiny_pictures import Case, TinyModel, controlnet, map_use, transformer, vae

SIZE = (48, 64)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    nets = [controlnet(num_mode=3), controlnet(singles=0)]
    return TinyModel(tmp_path_factory.mktemp("base"), transformer(), vae(), nets)


@pytest.fixture(scope="module")
def fill(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return TinyModel(tmp_path_factory.mktemp("fill"), transformer(384), vae())


def admit(model: TinyModel, case: Case, **changes: Any) -> Any:
    job = with_sampling(case.job, **changes)
    return model.denoiser.admit(job, case.positive, case.negative, None, model.pictures(case))


INPAINT = Case(task=Task.INPAINT)


def test_pictures_that_are_not_the_jobs_are_refused(base: TinyModel) -> None:
    pictures, job = base.pictures(INPAINT), INPAINT.job

    def given(*found: Any) -> Any:
        return base.denoiser.admit(job, INPAINT.positive, None, None, found)

    for found in ((), pictures[:1], pictures[::-1], [*pictures, pictures[0]]):
        with pytest.raises(InvalidRequest, match="pictures: the job has"):
            given(*found)
    narrow = replace(pictures[0], values=pictures[0].values[:30])
    with pytest.raises(InvalidRequest, match="both stages must load the same model") as refused:
        given(narrow, pictures[1])
    assert refused.value.param == "image"
    broken = replace(pictures[0], values=torch.full_like(pictures[0].values, float("nan")))
    with pytest.raises(DegenerateImage, match="image: its encoding is not finite"):
        given(broken, pictures[1])


def test_weights_do_their_own_task_alone(base: TinyModel, fill: TinyModel) -> None:
    for model, case, said in (
        (fill, Case(task=Task.TEXT_TO_IMAGE), "these weights do fill alone, and not text-to-image"),
        (fill, INPAINT, "these weights do fill alone"),
        (base, Case(task=Task.FILL), "fill needs weights of its own, such as FLUX.1 Fill"),
        (base, Case(task=Task.CONTROL, maps=(map_use(SIZE),)), "FLUX.1 Depth or Canny"),
    ):
        with pytest.raises(UnsupportedFeature, match=said) as refused:
            model.admit(case)
        assert refused.value.param == "task"


def test_a_task_refuses_what_its_pipeline_has_not(base: TinyModel) -> None:
    for changes in ({"strength": 0.0}, {"skips_steps": True}, {"min_inference_steps": 2}):
        with pytest.raises(InvalidRequest, match=r"strength|skip_steps|min_steps"):
            admit(base, INPAINT, **changes)
    work = base.admit(INPAINT)
    assert not base.denoiser.can_cut(work.job)
    assert base.denoiser.can_cut(Case(task=Task.EDIT, references=(SIZE,)).job)


def test_a_map_that_no_controlnet_follows_is_refused(base: TinyModel, fill: TinyModel) -> None:
    pose = Case(task=Task.TEXT_TO_IMAGE, maps=(map_use(SIZE, kind="pose"),))
    with pytest.raises(InvalidRequest, match=r"'pose' .*; known: canny, depth, plain1") as refused:
        base.admit(pose)
    assert refused.value.param == "control"
    alone = DenoiserStage.load(str(base.folder))
    with pytest.raises(UnsupportedFeature, match="this denoiser has no ControlNet"):
        base.admit(pose, alone)


def test_an_edit_may_look_at_several_pictures(base: TinyModel) -> None:
    """Each has a place of its own, so which is which matters; tokens are counted."""
    two = Case(task=Task.EDIT, references=((32, 32), (48, 32)))
    work = base.admit(two)
    assert work.image_tokens == 12
    assert work.segments[0].shape.image == 12 + 4 + 6
    pictures = base.pictures(two)
    uses = two.job.sampling.pictures
    job = with_sampling(two.job, pictures=uses[::-1])
    other = base.denoiser.admit(job, two.positive, None, None, pictures[::-1])
    base.denoiser.tick([work, other])
    assert not torch.allclose(work.latents, other.latents)


def test_steps_of_an_edit_may_be_skipped_and_cut(base: TinyModel) -> None:
    case = Case(task=Task.EDIT, references=(SIZE,), steps=10)
    skipping = admit(base, case, skips_steps=True)
    assert skipping.num_steps == 6
    work, shorter = base.admit(case), admit(base, case, num_inference_steps=4)
    base.denoiser.cut(work, 4)
    for _ in range(4):
        base.denoiser.tick([work, skipping, shorter])
    assert torch.equal(work.latents, shorter.latents)


def test_fill_is_measured_with_pictures_that_mean_nothing(fill: TinyModel) -> None:
    points = measure(fill.denoiser, [[(64, 64, 2)]], text_tokens=8, budget_s=60.0)
    assert points[0].lengths == (24, 24)


def test_the_engine_draws_pictures_too(base: TinyModel) -> None:
    cases = [INPAINT, Case(task=Task.EDIT, references=(SIZE,), seed=8)]
    scheduler = Scheduler(
        cost=CostSurface(base=0.1, per_token=1e-4), policy="edf", max_tokens=500, max_works=4
    )
    engine = Engine(base.denoiser, scheduler)
    engine.start()
    try:
        futures = [
            engine.submit(case.job, case.positive, pictures=base.pictures(case)) for case in cases
        ]
        for case, future in zip(cases, futures, strict=True):
            assert torch.equal(future.result(60).packed, base.drawn(case))
    finally:
        engine.stop()


def test_folders_of_other_models_are_refused(base: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="serves FluxPriorReduxPipeline folders"):
        load_redux(str(base.folder), device="cpu", dtype="float32")
    index = tmp_path / "model_index.json"
    index.write_text('{"_class_name": "FluxPriorReduxPipeline"}')
    with pytest.raises(CheckpointError, match="FluxPipeline and FluxKontextPipeline and FluxFill"):
        load_vae_encoder(str(tmp_path), device="cpu", dtype="float32")
    with pytest.raises(CheckpointError, match="no FluxControlNetModel"):
        load_controlnet(str(base.folder / "vae"), device="cpu", dtype="float32")
    config = base.folder / "net1" / "config.json"
    before = config.read_text()
    config.write_text(json.dumps({**json.loads(before), "conditioning_embedding_channels": 4}))
    with pytest.raises(CheckpointError, match="takes pixels"):
        load_controlnet(str(base.folder / "net1"), device="cpu", dtype="float32")
    config.write_text(before)


def test_the_only_map_of_the_only_net_needs_no_name(tmp_path: Path) -> None:
    tiny = TinyModel(tmp_path, transformer(), vae(), [controlnet(doubles=1)])
    named = Case(task=Task.TEXT_TO_IMAGE, maps=(map_use(SIZE, kind="plain0"),))
    unnamed = Case(task=Task.TEXT_TO_IMAGE, maps=(map_use(SIZE),))
    assert torch.equal(tiny.drawn(named), tiny.drawn(unnamed))
    use = PictureUse(role=PictureRole.CONTROL, height=48, width=64, scale=0.0)
    silent = Case(task=Task.TEXT_TO_IMAGE, maps=(use,))
    assert tiny.denoiser.segments(silent.job, silent.positive, None) == (20,)
