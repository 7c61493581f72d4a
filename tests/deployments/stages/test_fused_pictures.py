"""Requests with pictures where all stages are in one replica."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deployments.options.stages import StagesConfig
from deployments.stages.fused import Fused
from deployments.wire.packed import Refusal
from pipelines.contracts import GenerationJob, GenerationResult
from pipelines.errors import UnsupportedFeature
from tests.deployments.images import pixels_of
from tests.deployments.pictures import painted_job
from tests.specs import tiny_spec

PIXELS = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
COVERED = np.zeros((64, 64), dtype=bool)
COVERED[:, 24:48] = True


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="png")
    return file.getvalue()


JOB = painted_job(image=png(PIXELS), mask=png(COVERED.astype(np.uint8) * 255), num_images=2)


@pytest.fixture(params=[True, False], ids=["with-pictures", "without"])
async def fused(
    dev_like: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Fused]:
    config = StagesConfig.model_validate(
        {
            "layout": "fused",
            "image_encoder": {"enabled": request.param},
            "denoiser": {"cost_cache": tmp_path / "cost", "calibration_s": 0.1},
            "storage": {"directory": tmp_path / "files"},
        }
    )
    stages = Fused(replace(tiny_spec(dev_like), tasks=("text-to-image", "inpaint")), config)
    yield stages
    stages.close()


async def last_of(fused: Fused, job: GenerationJob) -> object:
    *_, last = [item async for item in fused.generate(job)]
    return last


@pytest.mark.parametrize("fused", [True], indirect=True)
async def test_they_are_drawn_and_pasted_back(fused: Fused) -> None:
    result = await last_of(fused, JOB)
    assert isinstance(result, GenerationResult)
    first, second = map(pixels_of, result.images)
    for pixels in (first, second):
        assert np.array_equal(pixels[~COVERED], PIXELS[~COVERED])
    assert not np.array_equal(first[COVERED], second[COVERED])
    assert result.timings["encode_image"] > 0
    assert "image_encoder" in [stage.part for stage in await fused.provenance()]


@pytest.mark.parametrize("fused", [False], indirect=True)
async def test_without_what_encodes_them_they_are_refused(fused: Fused) -> None:
    refusal = await last_of(fused, JOB)
    assert isinstance(refusal, Refusal)
    assert isinstance(refusal.error, UnsupportedFeature)
