"""Receipts of the tests, and files with them."""

from __future__ import annotations

import numpy as np

from deployments.storage.encode import encode_image
from deployments.storage.receipt import receipt_text, with_stages
from pipelines.contracts import FinishSpec, GenerationParams
from pipelines.cuts import Cut
from pipelines.provenance import Provenance, StageProvenance

PARAMS = GenerationParams(
    prompt="a cat\non a mat",
    negative_prompt="blurry",
    height=64,
    width=80,
    num_inference_steps=12,
    guidance_scale=3.5,
    true_cfg_scale=3.0,
    seed=5,
    num_images=2,
    max_sequence_length=20,
)
FINISH = FinishSpec(seed=6, model="test-model")
VERSIONS = (("sluice", "0.1.0"), ("torch", "2.12.0"), ("diffusers", "0.42.0"))
STAGES: Provenance = tuple(
    StageProvenance(
        part=part,
        weights=letter * 64,
        dtype="float32",
        device="cpu AVX2",
        attention="sdpa" if part == "transformer" else "",
        versions=VERSIONS,
    )
    for part, letter in (("text_encoder", "a"), ("transformer", "b"), ("vae", "c"))
)


def receipt(
    params: GenerationParams = PARAMS,
    finish: FinishSpec = FINISH,
    *,
    stages: Provenance = STAGES,
    cuts: tuple[Cut, ...] = (),
) -> str:
    """The text of a whole receipt."""
    return with_stages(receipt_text(params, finish, steps_run=11, cuts=cuts), stages)


def file_with(text: str, output_format: str = "png", parameters: str = "") -> bytes:
    """A small file with `text` for a receipt."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    return encode_image(
        pixels,
        output_format=output_format,
        output_compression=80,
        parameters=parameters,
        receipt=text,
    )
