"""The shims load what the model's family says: here, one that is nothing like FLUX.1."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from deployments.options.stages import DenoiserOptions, TextEncoderOptions, VaeDecoderOptions
from deployments.routing.backlog import Report, called_shape
from deployments.stages.denoiser import Denoiser
from deployments.stages.text_encoder import TextEncoder
from deployments.stages.vae_decoder import VaeDecoder
from deployments.wire.packed import PackedLatents
from pipelines.contracts import LatentJob, SamplingParams, TextPrompt
from tests.pipelines.second_family import (
    NAME,
    Squares,
    Words,
    made_up_spec,
    naive_latents,
    random_weights,
    registered,
)

PROMPTS = ("a red fox in the snow", "blurry")


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    with registered():
        yield


async def test_an_image_of_another_family_through_all_shims(tmp_path: Path) -> None:
    spec = made_up_spec(str(tmp_path))
    encoder = TextEncoder(spec, TextEncoderOptions())
    denoiser = Denoiser(spec, DenoiserOptions(calibration_s=0.1, cost_cache=tmp_path / "cost"))
    decoder = VaeDecoder(spec, VaeDecoderOptions())
    job = LatentJob(
        work_id="a",
        group="a",
        sampling=SamplingParams(
            height=96,
            width=64,
            num_inference_steps=5,
            guidance_scale=1.0,
            true_cfg_scale=1.5,
            seed=4,
            family=NAME,
        ),
    )
    positive, negative = [
        await encoder.encode(TextPrompt(prompt=prompt, max_sequence_length=16))
        for prompt in PROMPTS
    ]
    *_, latents = [item async for item in denoiser.denoise(job, positive, negative)]
    assert isinstance(latents, PackedLatents)
    image = await decoder.decode(latents)
    expected = naive_latents(random_weights(), job, *Words().encode(PROMPTS, 16))
    (values,) = Squares().decode([expected], 96, 64)
    levels = ((values / 2 + 0.5) * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(image.pixels - levels).max() <= 1
    report, shape = Report.read(denoiser.record_routing_stats()), called_shape([job], {})
    assert report is not None
    assert shape is not None
    assert shape.tokens(report.text_tokens) == (16 + 6, 16 + 6)
    for shim in (encoder, denoiser, decoder):
        shim.close()
