"""Works with pictures in a denoiser's deployment: admitted, resumed, refused, counted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deployments.options.stages import DenoiserOptions
from deployments.routing.backlog import Report, called_shape
from deployments.stages.denoiser import Denoiser
from deployments.wire.packed import (
    Denoising,
    PackedCheckpoint,
    PackedLatents,
    PackedPicture,
    Refusal,
)
from deployments.wire.tensors import pack_conditioning, pack_picture, unpack_latents
from pipelines.contracts import EncodedPicture, LatentJob, PreparedPicture, SamplingParams
from pipelines.engine.costs.surface import CostSurface
from pipelines.errors import InvalidRequest, SluiceError, UnsupportedFeature
from pipelines.flux1.prompt_tensors import PromptTensors
from pipelines.stages.denoiser import DenoiserStage
from pipelines.stages.image_encoder import ImageEncoderStage
from pipelines.tasks import PictureRole, PictureUse, Task
from tests.deployments.receipts import STAGES
from tests.specs import tiny_spec

POSITIVE = PromptTensors(
    prompt_embeds=torch.randn(16, 40, generator=torch.Generator().manual_seed(0)),
    pooled_prompt_embeds=torch.randn(24, generator=torch.Generator().manual_seed(1)),
).conditioning(num_tokens=3)


@pytest.fixture
async def denoiser(dev_like: Path) -> AsyncIterator[Denoiser]:
    made = Denoiser(tiny_spec(dev_like), DenoiserOptions(checkpoint_every=2, calibration_s=0.1))
    yield made
    made.close()


@pytest.fixture
def pictures(dev_like: Path) -> list[EncodedPicture]:
    """An image and a mask of its left half."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64), dtype=bool)
    mask[:, :32] = True
    return ImageEncoderStage.load(str(dev_like)).encode(
        [
            PreparedPicture(role=PictureRole.IMAGE, pixels=pixels),
            PreparedPicture(role=PictureRole.MASK, mask=mask),
        ]
    )


def painting(**changes: Any) -> LatentJob:
    uses = tuple(
        PictureUse(role=role, height=64, width=64) for role in (PictureRole.IMAGE, PictureRole.MASK)
    )
    values: dict[str, Any] = {
        "height": 64,
        "width": 64,
        "num_inference_steps": 8,
        "guidance_scale": 3.5,
        "seed": 3,
        "task": Task.INPAINT,
        "strength": 0.75,
        "pictures": uses,
    }
    return LatentJob(work_id="w", group="g", sampling=SamplingParams(**{**values, **changes}))


async def drawn(
    denoiser: Denoiser,
    job: LatentJob,
    *pictures: PackedPicture,
    start: PackedCheckpoint | None = None,
) -> list[Denoising]:
    positive = pack_conditioning(replace(POSITIVE, timings={"encode": 0.1}))
    return [item async for item in denoiser.denoise(job, positive, None, *pictures, start=start)]


def latents_of(items: list[Denoising]) -> torch.Tensor:
    *_, last = items
    assert isinstance(last, PackedLatents), last
    return unpack_latents(last).packed


def refused(items: list[Denoising]) -> SluiceError:
    *_, last = items
    assert isinstance(last, Refusal)
    return last.error


async def test_it_draws_what_the_stage_draws(
    denoiser: Denoiser, pictures: list[EncodedPicture], dev_like: Path
) -> None:
    stage, job = DenoiserStage.load(str(dev_like)), painting()
    work = stage.admit(job, POSITIVE, None, None, pictures)
    assert work.num_steps < 8  # the strength leaves some out
    while not work.is_done:
        stage.tick([work])
    items = await drawn(denoiser, job, *map(pack_picture, pictures))
    assert torch.equal(latents_of(items), stage.finish(work).packed)
    plain = painting(task=Task.TEXT_TO_IMAGE, strength=1.0, pictures=())
    assert not torch.equal(latents_of(await drawn(denoiser, plain)), latents_of(items))


async def test_it_goes_on_from_a_checkpoint_with_the_same_pictures(
    denoiser: Denoiser, pictures: list[EncodedPicture]
) -> None:
    packed = [pack_picture(each) for each in pictures]
    first, *others = await drawn(denoiser, painting(), *packed)
    assert isinstance(first, PackedCheckpoint)
    again = await drawn(denoiser, painting(), *packed, start=first)
    assert torch.equal(latents_of(again), latents_of(others))


async def test_what_it_took_to_encode_them_and_who_did_is_told(
    denoiser: Denoiser, pictures: list[EncodedPicture]
) -> None:
    who = replace(STAGES[0], part="image_encoder")
    slow, fast = (
        replace(
            pack_picture(each),
            timings={"encode_image_wait": seconds, "encode_image": 2 * seconds},
            drawn_by=(who,),
        )
        for each, seconds in zip(pictures, (0.5, 0.25), strict=True)
    )
    *_, last = await drawn(denoiser, painting(), slow, fast)
    assert isinstance(last, PackedLatents)
    assert last.timings["encode_image_wait"] == 0.5
    assert last.timings["encode_image"] == 1.0
    assert last.timings["encode"] == 0.1
    assert [stage.part for stage in last.drawn_by] == ["image_encoder", "transformer"]


@pytest.mark.parametrize(
    ("changes", "error", "param"),
    [
        ({"task": Task.FILL}, InvalidRequest, "image"),
        ({"strength": 0.0}, InvalidRequest, "strength"),
        ({"task": Task.TEXT_TO_IMAGE, "strength": 1.0}, InvalidRequest, "image"),
        ({"min_inference_steps": 3}, UnsupportedFeature, "min_steps"),
    ],
)
async def test_a_task_that_it_cannot_do_is_refused(
    denoiser: Denoiser,
    pictures: list[EncodedPicture],
    changes: dict[str, Any],
    error: type[SluiceError],
    param: str,
) -> None:
    items = await drawn(denoiser, painting(**changes), *map(pack_picture, pictures))
    found = refused(items)
    assert type(found) is error, found
    assert getattr(found, "param", None) == param
    denoiser.check_health()


async def test_pictures_that_the_job_does_not_have_are_refused(
    denoiser: Denoiser, pictures: list[EncodedPicture]
) -> None:
    found = refused(await drawn(denoiser, painting(), pack_picture(pictures[0])))
    assert isinstance(found, InvalidRequest)
    assert "pictures" in str(found)


def test_callers_count_references_and_steps_that_a_strength_leaves_out() -> None:
    report = Report(0.0, 0.0, 16, CostSurface(base=0.0, per_token=1.0))
    whole, plain = (
        painting(strength=1.0),
        painting(task=Task.TEXT_TO_IMAGE, strength=1.0, pictures=()),
    )
    shapes = [called_shape((job,), {}) for job in (plain, whole, painting(strength=0.5))]
    plain_s, whole_s, half_s = (report.share_s(shape) for shape in shapes if shape)
    assert whole_s == plain_s
    assert half_s == pytest.approx(plain_s / 2)
    use = PictureUse(role=PictureRole.REFERENCE, height=64, width=32)
    edit = called_shape((painting(task=Task.EDIT, strength=1.0, pictures=(use,)),), {})
    assert edit is not None
    assert report.share_s(edit) == pytest.approx(plain_s * (16 + 16 + 8) / (16 + 16))
