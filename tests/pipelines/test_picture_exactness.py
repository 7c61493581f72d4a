"""The promise where pictures are input: latents are those of each task's diffusers pipeline.

To the bit, but for one thing that `FluxPipeline` does not do either: modulation of all steps in one
product, whose kernel depends on their number. `step_by_step` has it as diffusers does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from pipelines.flux1.transformer import PackedFlux
from pipelines.job_shape import shape_of
from pipelines.stages.denoiser import DenoiserStage
from pipelines.stages.trajectory import Trajectory
from pipelines.tasks import PictureUse, Task
from tests.tiny_pictures import Case, TinyModel, TinyRedux, controlnet, map_use, transformer, vae

SIZE = (48, 64)


def acts(kind: str, **fields: Any) -> PictureUse:
    return map_use(SIZE, kind=kind, **fields)


BASE = {
    "text": Case(task=Task.TEXT_TO_IMAGE, true_cfg_scale=2.0, seed=1),
    "image": Case(task=Task.IMAGE_TO_IMAGE, strength=0.6, steps=4, seed=2),
    "image, guided": Case(task=Task.IMAGE_TO_IMAGE, true_cfg_scale=2.0, seed=3),
    "inpaint": Case(task=Task.INPAINT, strength=0.7, seed=4),
    "inpaint, off the grid": Case(task=Task.INPAINT, mask="odd", true_cfg_scale=2.0, seed=6),
    "edit": Case(task=Task.EDIT, references=(SIZE,), seed=7),
    "edit, other size": Case(task=Task.EDIT, references=((32, 96),), true_cfg_scale=2.0, seed=8),
    "edit of nothing": Case(task=Task.EDIT, seed=9),
    "edit inpaint": Case(task=Task.EDIT_INPAINT, strength=0.7, seed=10),
    "edit inpaint, reference": Case(
        task=Task.EDIT_INPAINT,
        references=((32, 32),),
        mask="scattered",
        true_cfg_scale=2.0,
        seed=11,
    ),
}
CONTROLLED = {
    "map": Case(task=Task.TEXT_TO_IMAGE, maps=(acts("canny"),), seed=12),
    "two maps, guided": Case(
        task=Task.TEXT_TO_IMAGE,
        steps=4,
        true_cfg_scale=2.0,
        maps=(acts("canny", scale=0.7), acts("depth", scale=0.4, start=0.2, end=0.8)),
        seed=13,
    ),
    "one of no scale": Case(
        task=Task.TEXT_TO_IMAGE, maps=(acts("canny", scale=0.0), acts("depth")), seed=14
    ),
}
TWO_NETS = {
    "two nets": Case(
        task=Task.TEXT_TO_IMAGE, maps=(acts("plain0"), acts("plain1", scale=0.5)), seed=15
    ),
    "one after the other": Case(
        task=Task.TEXT_TO_IMAGE,
        steps=4,
        maps=(acts("plain0", start=0.5), acts("plain1", scale=0.5, end=0.5)),
        seed=16,
    ),
    "image": Case(
        task=Task.IMAGE_TO_IMAGE,
        strength=0.7,
        maps=(acts("plain0"), acts("plain1", scale=0.5)),
        seed=17,
    ),
    "inpaint": Case(
        task=Task.INPAINT,
        strength=0.7,
        maps=(acts("plain0"), acts("plain1", scale=0.5)),
        seed=18,
    ),
}
# 16 tokens at least: with fewer rows, a product of so many channels takes another kernel of MKL.
LARGER: dict[str, Any] = {"height": 64, "width": 64}
FILLS = {
    "fill": Case(task=Task.FILL, **LARGER, seed=19),
    "fill, strength": Case(task=Task.FILL, strength=0.7, mask="scattered", **LARGER, seed=20),
}
MAPS = {"control": Case(task=Task.CONTROL, **LARGER, maps=(map_use((64, 64)),), seed=21)}
CASES = {
    "base": BASE,
    "union": CONTROLLED,
    "two nets": TWO_NETS,
    "fill": FILLS,
    "control": MAPS,
}
EACH = [(model, name) for model, cases in CASES.items() for name in cases]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TinyModel]:
    folder = tmp_path_factory.mktemp("pictures")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shared, plain = vae(), vae(quant_conv=False)
        union = [controlnet(num_mode=3, doubles=2)]
        nets = [controlnet(doubles=4, singles=0), controlnet(doubles=2)]
        return {
            "base": TinyModel(folder / "base", transformer(), plain),
            "fill": TinyModel(folder / "fill", transformer(384), shared),
            "control": TinyModel(folder / "control", transformer(128), shared),
            "union": TinyModel(folder / "union", transformer(doubles=3, singles=2), shared, union),
            "two nets": TinyModel(folder / "two", transformer(doubles=5), plain, nets),
        }


@pytest.fixture
def step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = PackedFlux.modulation

    def each(flux: PackedFlux, times: torch.Tensor, *args: Any) -> torch.Tensor:
        return torch.cat([whole(flux, time, *args) for time in times.split(1)])

    monkeypatch.setattr(PackedFlux, "modulation", each)


@pytest.mark.parametrize(("model", "name"), EACH)
def test_latents_are_those_of_diffusers(
    model: str, name: str, models: dict[str, TinyModel], step_by_step: None
) -> None:
    case = CASES[model][name]
    theirs = models[model].oracle(case)
    assert torch.equal(models[model].drawn(case), theirs)
    assert theirs.std() > 0.3


def test_modulation_of_all_steps_at_once_rounds_as_for_text(models: dict[str, TinyModel]) -> None:
    for model, cases in (("base", BASE), ("fill", FILLS)):
        for case in cases.values():
            gap = (models[model].drawn(case) - models[model].oracle(case)).abs().max()
            assert gap < 2e-5


def finish(stage: DenoiserStage, works: Sequence[Trajectory]) -> None:
    while left := [work for work in works if not work.is_done]:
        stage.tick(left)


@pytest.mark.parametrize("model", CASES)
def test_all_tasks_share_ticks_and_change_nobody(model: str, models: dict[str, TinyModel]) -> None:
    """Joining one tick after the other, with plain works among them."""
    tiny = models[model]
    cases = [*CASES[model].values()]
    if model == "union":
        cases += [*BASE.values()]
    alone = [tiny.drawn(case) for case in cases]
    works = [tiny.admit(case) for case in cases]
    for count in range(1, len(works)):
        left = [work for work in works[:count] if not work.is_done]
        if left:
            tiny.denoiser.tick(left)
    finish(tiny.denoiser, works)
    for case, work, latents in zip(cases, works, alone, strict=True):
        assert torch.equal(tiny.denoiser.finish(work).packed, latents), case.task


@pytest.mark.parametrize("model", CASES)
def test_a_work_that_moves_after_every_step_draws_the_same(
    model: str, models: dict[str, TinyModel]
) -> None:
    """To another replica and back, from checkpoints, which keep nothing of the pictures."""
    tiny = models[model]
    there = tiny.new_denoiser()
    for case in [*CASES[model].values()][-5:]:
        stages, alone = [tiny.denoiser, there], tiny.drawn(case)
        work = tiny.admit(case)
        while True:
            stages[0].tick([work])
            if work.is_done:
                break
            start = stages[0].checkpoint(work)
            assert start.latents.shape == (case.height * case.width // 256, 64)
            work = tiny.admit(case, stages[1], start)
            stages.reverse()
        assert torch.equal(stages[0].finish(work).packed, alone), case.task


@pytest.mark.parametrize("model", CASES)
def test_tokens_and_memory_are_known_beforehand(model: str, models: dict[str, TinyModel]) -> None:
    tiny = models[model]
    for case in CASES[model].values():
        job, texts = case.job, (case.positive, case.negative)
        work = tiny.admit(case)
        segments = tiny.denoiser.segments(job, *texts)
        own = tuple(sum(segment.shape) for segment in work.segments)
        assert segments[: len(own)] == own
        assert len(segments) == len(own) + sum(
            use.scale > 0 for use in case.maps if case.task is not Task.CONTROL
        )
        assert shape_of(job.sampling).tokens(case.text_tokens) == own
        assert shape_of(job.sampling).forwards == work.num_steps
        held = _bytes_of(work)
        assert held <= tiny.denoiser.trajectory_bytes(job, *texts) <= 1.02 * held


def _bytes_of(work: Trajectory) -> int:
    """Of all that a work holds, each piece of memory once."""
    found: dict[int, int] = {}

    def visit(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            storage = value.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, tuple):
            for each in value:
                visit(each)

    visit((work.latents, work.segments, work.pictures))
    return sum(found.values())


def test_a_variation_is_drawn_from_text_with_the_tokens_of_its_picture(
    models: dict[str, TinyModel],
    tmp_path_factory: pytest.TempPathFactory,
    step_by_step: None,
) -> None:
    """`FluxPipeline` over what `FluxPriorReduxPipeline` makes; packed with a plain work."""
    from pipelines.flux1.prompt_tensors import PromptTensors
    from pipelines.stages.image_encoder import ImageEncoderStage

    tiny = models["base"]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        redux = TinyRedux(tmp_path_factory.mktemp("redux"))
    case = Case(task=Task.VARIATION, references=((40, 50),), steps=2, seed=22, height=48, width=64)
    pixels = case.reference(0)
    encoder = ImageEncoderStage.load(str(tiny.folder), variations=str(redux.folder))
    (encoded,) = encoder.encode(case.prepared)
    embeds, pooled = redux.oracle(pixels, case.positive)
    assert torch.equal(encoded.values, embeds[0, case.text_tokens :])
    job = case.job
    work = tiny.denoiser.admit(job, case.positive, None, None, [encoded])
    assert tiny.denoiser.segments(job, case.positive, None) == (8 + 729 + 12,)
    other = tiny.admit(BASE["text"])
    finish(tiny.denoiser, [work, other])
    text = PromptTensors(embeds[0], pooled[0]).conditioning(num_tokens=1)
    plain = Case(task=Task.TEXT_TO_IMAGE, steps=2, seed=22, text=text)
    assert torch.equal(tiny.denoiser.finish(work).packed, tiny.oracle(plain))


@pytest.mark.long
@pytest.mark.parametrize("strength", [0.01, 0.3, 0.56, 0.99, 1.0])
@pytest.mark.parametrize("size", [(32, 32), (96, 64), (112, 176)])
@pytest.mark.parametrize("mask", ["box", "odd", "scattered", "all"])
def test_sizes_strengths_and_masks(
    strength: float,
    size: tuple[int, int],
    mask: str,
    models: dict[str, TinyModel],
    step_by_step: None,
) -> None:
    height, width = size
    for model, task in (
        ("base", Task.IMAGE_TO_IMAGE),
        ("base", Task.INPAINT),
        ("base", Task.EDIT_INPAINT),
        ("fill", Task.FILL),
    ):
        for scale in (1.0, 1.5) if task is not Task.FILL else (1.0,):
            case = Case(
                task=task,
                height=height,
                width=width,
                steps=25,
                strength=strength,
                mask=mask,
                true_cfg_scale=scale,
                seed=int(100 * strength),
            )
            assert torch.equal(models[model].drawn(case), models[model].oracle(case)), case
