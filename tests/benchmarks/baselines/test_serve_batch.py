"""The baseline's pictures are Sluice's: one model, tested without a cluster."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from benchmarks.baselines.grouping import ImageTask
from benchmarks.baselines.serve_batch import BaselineOptions, Drawn, ImageRequest, _to_png, build


def test_image_i_is_seeded_with_seed_plus_i_and_sizes_are_width_first():
    tasks = ImageRequest(prompt="a red circle", n=3, size="96x64", seed=7).tasks()
    assert [task.seed for task in tasks] == [7, 8, 9]
    assert {(task.shape.width, task.shape.height) for task in tasks} == {(96, 64)}


def test_unknown_fields_are_refused():
    with pytest.raises(ValidationError, match="lora"):
        ImageRequest.model_validate({"prompt": "a", "lora": "b"})
    with pytest.raises(ValidationError, match="batchsize"):
        BaselineOptions.model_validate({"batchsize": 3})


def test_a_file_is_a_png_of_the_same_pixels():
    pixels = np.arange(64 * 96 * 3, dtype=np.uint8).reshape(64, 96, 3)
    (task,) = ImageRequest(prompt="a red circle", size="96x64").tasks()
    finished = _to_png(Drawn(pixels, 0.5), task)
    image = Image.open(io.BytesIO(base64.b64decode(finished.b64)))
    assert image.format == "PNG"
    assert np.array_equal(np.asarray(image), pixels)
    assert finished.encodes == 0.5


def test_options_reach_the_deployments():
    application = build(BaselineOptions(replicas=3))
    assert application._bound_deployment.name == "ApiIngress"
    assert isinstance(ImageRequest(prompt="a").tasks()[0], ImageTask)
