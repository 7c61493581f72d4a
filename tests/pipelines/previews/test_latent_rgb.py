"""Colours from latents, fitted to the decoder that they are for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

from pipelines.catalog import find
from pipelines.contracts import LatentJob, Latents, SamplingParams, TextPrompt
from pipelines.embedded import EMBEDDED_MODEL_NAME
from pipelines.families import family_of
from pipelines.flux1.latents import unpack
from pipelines.previews.latent_rgb import LatentRgb, fit_latent_rgb
from pipelines.stages.denoiser import DenoiserStage
from pipelines.stages.text_encoder import TextEncoderStage
from pipelines.stages.vae_decoder import VaeDecoderStage

SPEC = find(EMBEDDED_MODEL_NAME)
PROMPTS = (
    "a red circle on a blue background",
    "a large green square and a small yellow triangle",
    "three purple stars",
    "a blue star",
    "a white circle on black",
    "a yellow square",
)


@pytest.fixture(scope="module")
def stage() -> DenoiserStage:
    return DenoiserStage.load(SPEC.source)


class LinearDecoder:
    """Colours that are linear in the latents, eight pixels a side for each."""

    device = torch.device("cpu")

    def __init__(self, weights: torch.Tensor) -> None:
        self._map = LatentRgb(weights)

    def decode(self, latents: Sequence[torch.Tensor], height: int, width: int) -> torch.Tensor:
        images = [unpack(each[None], height=height, width=width)[0] for each in latents]
        colours = torch.stack([self._map.decode(each) for each in images])
        return colours.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)


def fit(stage: DenoiserStage, decoder: Any) -> LatentRgb | None:
    return fit_latent_rgb(stage, decoder, family_of(SPEC), guidance_scale=3.5)


def test_a_colour_is_a_sum_over_channels_and_an_offset() -> None:
    weights = torch.tensor([[1.0, 0.0, 0.5], [0.0, 2.0, 0.5], [0.1, 0.2, 0.3]])
    latents = torch.tensor([[[1.0, 0.0]], [[3.0, 0.0]]])
    colours = LatentRgb(weights).decode(latents)
    assert torch.allclose(colours[:, 0, 0], torch.tensor([1.1, 6.2, 2.3]))
    assert torch.allclose(colours[:, 0, 1], torch.tensor([0.1, 0.2, 0.3]))


def test_what_is_linear_is_found(stage: DenoiserStage) -> None:
    weights = torch.randn(17, 3, generator=torch.Generator().manual_seed(1)) * 0.02
    fitted = fit(stage, LinearDecoder(weights))
    assert fitted is not None
    assert fitted.latent_channels == stage.latent_channels == 16
    latents = torch.randn(16, 3, 5)
    expected = LatentRgb(weights).decode(latents)
    assert expected.shape == (3, 3, 5)
    assert torch.allclose(fitted.decode(latents), expected, atol=0.01)


def test_nothing_is_fitted_to_what_is_not_finite(stage: DenoiserStage) -> None:
    assert fit(stage, LinearDecoder(torch.full((17, 3), float("nan")))) is None


def test_it_is_the_same_at_each_start_and_leaves_the_seeds_alone(stage: DenoiserStage) -> None:
    decoder = LinearDecoder(torch.ones(17, 3) * 0.01)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = fit(stage, decoder), fit(stage, decoder)
    assert torch.equal(torch.rand(1), expected)
    assert first is not None
    assert second is not None
    ones = torch.ones(16, 1, 1)
    assert torch.equal(first.decode(ones), second.decode(ones))


def test_previews_of_the_carried_model_are_close_to_its_images(stage: DenoiserStage) -> None:
    """What the last three steps see ahead, over several images, channel by channel."""
    decoder = VaeDecoderStage.load(SPEC.source)
    fitted = fit(stage, decoder._decoder)
    assert fitted is not None
    length = SPEC.max_sequence_length
    texts = TextEncoderStage.load(SPEC.source).encode(
        [TextPrompt(prompt=prompt, max_sequence_length=length) for prompt in PROMPTS]
    )
    side, num_steps = SPEC.height, SPEC.num_inference_steps
    works = [
        stage.admit(
            LatentJob(
                work_id=str(seed),
                group="g",
                sampling=SamplingParams(
                    height=side,
                    width=side,
                    num_inference_steps=num_steps,
                    guidance_scale=SPEC.guidance_scale,
                    seed=seed,
                ),
            ),
            text,
            None,
        )
        for seed, text in enumerate(texts)
    ]
    seen: list[torch.Tensor] = []
    for step in range(num_steps):
        for work in works:
            work.predicts = True
        stage.tick(works)
        if step >= num_steps - 4:
            clean = [work.predicted for work in works]
            shown = [fitted.decode(stage.unpacked(x, side, side)) for x in clean if x is not None]
            seen.append(torch.stack(shown))
    latents: list[Latents] = [stage.finish(work) for work in works]
    wanted = adaptive_avg_pool2d(decoder.values(latents), seen[0].shape[-1])
    for shown in seen[:3]:
        for channel in range(3):
            ours, theirs = shown[:, channel].clamp(-1, 1), wanted[:, channel]
            correlation = np.corrcoef(ours.flatten(), theirs.flatten())[0, 1]
            assert correlation > 0.9
