"""The stages with weights that are elsewhere: each fetches its own, and draws as from a folder."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from deployments.application import bind_stages
from deployments.options.stages import (
    StagesConfig,
    TextEncoderOptions,
    VaeDecoderOptions,
    WeightsOptions,
)
from deployments.stages.fused import Fused
from deployments.stages.text_encoder import TextEncoder
from deployments.stages.vae_decoder import VaeDecoder
from deployments.weights.fetch import fetch
from deployments.wire.tensors import unpack_conditioning
from pipelines.contracts import (
    FinishSpec,
    GenerationJob,
    GenerationParams,
    GenerationResult,
    TextPrompt,
)
from pipelines.errors import CheckpointError
from pipelines.flux1.prompt_tensors import PromptTensors
from pipelines.stages.safety.safety import CLASSIFIER_PARTS
from pipelines.stages.text_encoder import TextEncoderStage
from tests.deployments.weights.fake_hub import COMMIT, REPOSITORY, FakeHub
from tests.deployments.weights.test_s3 import upload
from tests.oracle import compare, oracle_images
from tests.specs import tiny_spec

HUB = f"hf://{REPOSITORY}@{COMMIT}"
S3 = "s3://weights/models/tiny"


async def test_an_encoder_of_the_hub(hub: FakeHub, model: Path, options: WeightsOptions) -> None:
    encoder = TextEncoder(tiny_spec(HUB), TextEncoderOptions(), options)
    prompt = TextPrompt(prompt="a red circle", max_sequence_length=16)
    arrived = unpack_conditioning(await encoder.encode(prompt))
    (expected,) = TextEncoderStage.load(str(model)).encode([prompt])
    assert all(map(torch.equal, PromptTensors.of(arrived), PromptTensors.of(expected)))
    folders = {path.partition("/")[0] for path in hub.asked_for}
    assert folders == {
        "model_index.json",
        "text_encoder",
        "text_encoder_2",
        "tokenizer",
        "tokenizer_2",
    }


async def test_fused_from_a_bucket(bucket: Any, model: Path, tmp_path: Path) -> None:
    upload(bucket, model)
    config = StagesConfig.model_validate(
        {
            "layout": "fused",
            "denoiser": {"cost_cache": tmp_path / "cost", "calibration_s": 0.2},
            "safety": {"classifier": "off"},
            "storage": {"directory": tmp_path / "files"},
            "weights": {"cache_dir": tmp_path / "cache"},
        }
    )
    params = GenerationParams(
        prompt="a red circle",
        height=64,
        width=48,
        num_inference_steps=3,
        guidance_scale=3.5,
        seed=4,
        max_sequence_length=12,
    )
    fused = Fused(tiny_spec(S3), config)
    try:
        finish = FinishSpec(seed=4)
        job = GenerationJob(request_id="r", params=params, finish=finish)
        *_, result = [item async for item in fused.generate(job)]
        assert isinstance(result, GenerationResult)
        (image,) = result.images
    finally:
        fused.close()
    (theirs,) = oracle_images(model, params)
    assert image.b64 is not None
    ours = np.asarray(Image.open(io.BytesIO(base64.b64decode(image.b64))))
    assert compare(ours, theirs).is_exact


def test_a_damaged_file_fails_the_deployment_with_its_name(
    hub: FakeHub, options: WeightsOptions, caplog: pytest.LogCaptureFixture
) -> None:
    hub.damaged = {"vae/config.json"}
    with pytest.raises(CheckpointError, match=r"vae/config\.json arrived damaged"):
        VaeDecoder(tiny_spec(HUB), VaeDecoderOptions(), options)
    assert "VaeDecoder could not start" in caplog.text
    assert "vae/config.json arrived damaged" in caplog.text


def test_a_classifier_is_the_files_at_the_root(
    hub: FakeHub, model: Path, options: WeightsOptions
) -> None:
    weights = model / "vae/diffusion_pytorch_model.safetensors"
    (model / "model.safetensors").write_bytes(weights.read_bytes())
    for path in ("config.json", "preprocessor_config.json", "optimizer.pt", "pytorch_model.bin"):
        (model / path).write_text("{}")
    fetch(HUB, CLASSIFIER_PARTS, options)
    assert hub.asked_for == [
        "config.json",
        "model.safetensors",
        "model_index.json",
        "preprocessor_config.json",
    ]


def test_every_stage_is_told_where_to_keep_weights(options: WeightsOptions) -> None:
    layouts: tuple[Literal["split", "fused"], ...] = ("split", "fused")
    for layout in layouts:
        config = StagesConfig(weights=options, layout=layout)
        stages = bind_stages(tiny_spec(S3), config)
        for name, application in stages.items():
            deployment: Any = application._bound_deployment
            arguments = deployment.init_kwargs.values()
            assert (options in arguments or config in arguments) == (name != "finisher")
