"""How much work a job is, whoever counts it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from pipelines.contracts import Checkpoint, Cut, GenerationParams, LatentJob
from pipelines.job_shape import JobShape, shape_of
from tests.jobs import with_sampling

PARAMS = GenerationParams(
    prompt="a",
    height=128,
    width=64,
    num_inference_steps=10,
    guidance_scale=3.5,
    seed=1,
    max_sequence_length=36,
)


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ({}, JobShape(32, 1, 10)),
        ({"skips_steps": True}, JobShape(32, 1, 6)),
        ({"num_inference_steps": 28, "skips_steps": True}, JobShape(32, 1, 15)),
        ({"true_cfg_scale": 2.0, "negative_prompt": ""}, JobShape(32, 2, 10)),
        ({"true_cfg_scale": 2.0}, JobShape(32, 1, 10)),
        ({"num_images": 3}, JobShape(32, 1, 10)),
    ],
)
def test_a_job_is_as_large_as_its_forwards_and_segments(
    changes: dict[str, object], shape: JobShape
) -> None:
    params = replace(PARAMS, **changes)
    assert shape_of(params) == shape
    assert shape_of(LatentJob.of(params, 0, group="g", work_id="w").sampling) == shape
    assert shape_of(params, images=3).segments == 3 * shape.segments


def test_what_a_checkpoint_has_done_is_not_left() -> None:
    job = LatentJob.of(PARAMS, 0, group="g", work_id="w")
    start = Checkpoint(work_id="w", step=4, latents=torch.zeros(32, 64))
    assert shape_of(job.sampling, start=start) == JobShape(32, 1, 10, done=4)
    assert shape_of(job.sampling, start=start).forwards_left == 6
    cut = replace(start, cuts=(Cut(2, 8), Cut(4, 7)))
    assert shape_of(job.sampling, start=cut).forwards_left == 3


def test_segments_are_an_image_and_its_text() -> None:
    assert JobShape(32, 2, 10).tokens(36) == (68, 68)
    job = LatentJob.of(PARAMS, 0, group="g", work_id="w")
    assert shape_of(with_sampling(job, true_cfg_scale=2.0).sampling).tokens(0) == (32, 32)


def test_the_module_needs_no_torch() -> None:
    code = "import sys, pipelines.job_shape; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
