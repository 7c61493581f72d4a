"""The promise: our image is the image of `diffusers.FluxPipeline`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.contracts import GenerationParams, LatentJob, TextPrompt
from pipelines.local import LocalChain
from pipelines.stages.denoiser import DenoiserStage, Trajectory
from pipelines.stages.text_encoder import TextEncoderStage
from pipelines.stages.vae_decoder import VaeDecoderStage
from tests.oracle import compare, oracle_images
from tests.specs import tiny_spec

BASE = GenerationParams(
    prompt="a red cat on the left of a dog",
    height=64,
    width=64,
    num_inference_steps=4,
    guidance_scale=3.5,
    seed=7,
    max_sequence_length=32,
)
CASES = {
    "square": BASE,
    "wide": replace(BASE, width=128, num_inference_steps=7),
    "tall, odd grid": replace(BASE, height=144, width=80, seed=8),
    "one step": replace(BASE, num_inference_steps=1, seed=9),
    "many steps": replace(BASE, num_inference_steps=20, guidance_scale=1.0),
    "long text": replace(BASE, max_sequence_length=77, prompt="the blue square " * 40),
    "negative prompt": replace(BASE, negative_prompt="a dog", true_cfg_scale=3.0, width=96),
    "blank negative prompt": replace(BASE, negative_prompt="", true_cfg_scale=2.0),
    "negative without scale": replace(BASE, negative_prompt="a dog", true_cfg_scale=1.0),
    "three images": replace(BASE, num_images=3),
    "large seed": replace(BASE, seed=2**63 - 1),
}


@pytest.mark.parametrize("variant", ["dev_like", "schnell_like"])
@pytest.mark.parametrize("case", CASES)
def test_local_chain_equals_flux_pipeline(
    variant: str, case: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(variant)
    chain = LocalChain.load(tiny_spec(folder))
    ours = chain.generate(CASES[case])
    theirs = oracle_images(folder, CASES[case])
    assert len(ours) == len(theirs) == CASES[case].num_images
    for image, reference in zip(ours, theirs, strict=True):
        difference = compare(image.pixels, reference)
        assert difference.is_exact, difference
        assert reference.std() > 20, "a flat reference would agree with anything"


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"prompt": "a blue circle"}, True),
        ({"seed": 8}, True),
        ({"guidance_scale": 7.0}, True),
        ({"num_inference_steps": 5}, True),
        ({"max_sequence_length": 40}, True),
        ({"negative_prompt": "a dog", "true_cfg_scale": 3.0}, True),
        ({"negative_prompt": "a dog"}, False),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_every_parameter_matters(dev_like: Path, change: dict[str, object], differs: bool) -> None:
    """Guards the test above: two programs that both ignore a parameter agree on it."""
    chain = LocalChain.load(tiny_spec(dev_like))
    (before,) = chain.generate(BASE)
    (after,) = chain.generate(replace(BASE, **change))
    assert (compare(before.pixels, after.pixels).identical < 0.9) == differs


def test_mixed_batch_changes_nobody(dev_like: Path) -> None:
    """Sizes, steps, guidance and negative prompts mixed, joining and leaving at different ticks."""
    requests = [
        BASE,
        CASES["wide"],
        CASES["negative prompt"],
        CASES["one step"],
        replace(BASE, max_sequence_length=48, seed=21, num_inference_steps=6),
        CASES["tall, odd grid"],
    ]
    encoder = TextEncoderStage.load(str(dev_like))
    denoiser = DenoiserStage.load(str(dev_like))
    decoder = VaeDecoderStage.load(str(dev_like))

    def admit(index: int, params: GenerationParams) -> Trajectory:
        def encode(text: str):
            prompt = TextPrompt(prompt=text, max_sequence_length=params.max_sequence_length)
            return encoder.encode([prompt])[0]

        job = LatentJob.of(params, 0, group=str(index), work_id=str(index))
        negative = params.negative_prompt
        return denoiser.admit(job, encode(params.prompt), encode(negative) if negative else None)

    trajectories = [admit(i, params) for i, params in enumerate(requests)]
    tick = 0
    while not all(item.is_done for item in trajectories):
        arrived = trajectories[: tick + 1]
        denoiser.tick([item for item in arrived if not item.is_done])
        tick += 1
    for item, params in zip(trajectories, requests, strict=True):
        (image,) = decoder.decode([denoiser.finish(item)])
        (reference,) = oracle_images(dev_like, params)
        assert not isinstance(image, Exception)
        difference = compare(image.pixels, reference)
        assert difference.is_exact, (params, difference)


def test_batched_encode_and_decode_equal_single_ones(dev_like: Path) -> None:
    encoder = TextEncoderStage.load(str(dev_like))
    prompts = [TextPrompt(prompt=text, max_sequence_length=24) for text in ("a cat", "the dog", "")]
    for together, prompt in zip(encoder.encode(prompts), prompts, strict=True):
        (alone,) = encoder.encode([prompt])
        assert together.tensors.keys() == alone.tensors.keys()
        for name, tensor in together.tensors.items():
            np.testing.assert_allclose(tensor, alone.tensors[name], atol=1e-5)
        assert together.num_tokens == alone.num_tokens
