"""The chain in one process: chunks, steps and skipping."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxInpaintPipeline
from PIL import Image

from pipelines.contracts import GenerationParams, PreparedPicture, StepEvent, TextPrompt
from pipelines.errors import InvalidRequest
from pipelines.local import LocalChain
from pipelines.stages.text_encoder import TextEncoderStage
from pipelines.tasks import PictureRole, PictureUse, Task
from tests.oracle import compare, oracle_images
from tests.specs import tiny_spec
from tests.tiny_pictures import picture

PARAMS = GenerationParams(
    prompt="a red cat",
    negative_prompt="a dog",
    true_cfg_scale=2.0,
    height=64,
    width=64,
    num_inference_steps=10,
    guidance_scale=3.5,
    seed=4,
    num_images=5,
    max_sequence_length=16,
)


@pytest.mark.parametrize(("max_tokens", "chunks"), [(10_000, [5]), (130, [2, 2, 1]), (1, [1] * 5)])
def test_images_step_together_as_far_as_a_tick_holds_them(
    dev_like: Path, monkeypatch: pytest.MonkeyPatch, max_tokens: int, chunks: list[int]
) -> None:
    monkeypatch.setattr("pipelines.local._MAX_TOKENS_PER_TICK", max_tokens)
    events: list[StepEvent] = []
    params = replace(PARAMS, num_inference_steps=2)
    images = LocalChain.load(tiny_spec(dev_like)).generate(params, on_step=events.append)
    for image, reference in zip(images, oracle_images(dev_like, params), strict=True):
        assert compare(image.pixels, reference).is_exact
    expected: list[tuple[str, int]] = []
    first = 0
    for count in chunks:
        names = [f"local-{index}" for index in range(first, first + count)]
        expected += [(name, step) for step in (1, 2) for name in names]
        first += count
    assert [(event.work_id, event.step) for event in events] == expected
    assert {event.num_steps for event in events} == {2}


def test_weights_of_words_change_what_is_drawn(dev_like: Path) -> None:
    params = replace(
        PARAMS, prompt="a (red:2) cat", num_images=1, num_inference_steps=2, prompt_weighting=True
    )
    chain = LocalChain.load(tiny_spec(dev_like))
    drawn = {
        name: chain.generate(each)[0].pixels
        for name, each in {
            "weighted": params,
            "off": replace(params, prompt_weighting=False),
            "plain": replace(params, prompt="a red cat"),
            "negative": replace(params, negative_prompt="a (dog:0)"),
        }.items()
    }
    assert len({pixels.tobytes() for pixels in drawn.values()}) == 4
    (ones,) = chain.generate(replace(params, prompt="a (red:1) cat"))
    assert np.array_equal(ones.pixels, drawn["plain"])


def test_skipping_runs_fewer_forwards_and_stays_near(dev_like: Path) -> None:
    events: list[StepEvent] = []
    chain = LocalChain.load(tiny_spec(dev_like))
    one = replace(PARAMS, num_images=1)
    (full,) = chain.generate(one)
    (skipped,) = chain.generate(replace(one, skips_steps=True), on_step=events.append)
    assert [(event.step, event.num_steps) for event in events] == [(n, 6) for n in range(1, 7)]
    assert not compare(full.pixels, skipped.pixels).is_exact
    gap = abs(full.pixels.astype(float) - skipped.pixels.astype(float)).mean()
    assert gap < 0.25 * full.pixels.std()


def test_pictures_are_drawn_from_and_their_encoder_is_loaded_when_they_come(
    dev_like: Path,
) -> None:
    """Two images of one picture, each with a seed of its own, as `FluxInpaintPipeline` has them."""
    pixels = picture(1, 64, 64)
    region = np.zeros((64, 64), bool)
    region[16:48, 8:40] = True
    prepared = [
        PreparedPicture(role=PictureRole.IMAGE, pixels=pixels),
        PreparedPicture(role=PictureRole.MASK, mask=region),
    ]
    params = replace(
        PARAMS,
        num_images=2,
        num_inference_steps=4,
        task=Task.INPAINT,
        strength=0.6,
        pictures=tuple(PictureUse(role=each.role, height=64, width=64) for each in prepared),
    )
    chain = LocalChain.load(tiny_spec(dev_like))
    assert chain._image_encoder is None
    events: list[StepEvent] = []
    ours = chain.generate(params, pictures=prepared, on_step=events.append)
    assert chain._image_encoder is not None
    assert {event.num_steps for event in events} == {3}
    pipeline: Any = FluxInpaintPipeline.from_pretrained(dev_like)
    pipeline.set_progress_bar_config(disable=True)
    for index, image in enumerate(ours):
        theirs = pipeline(
            prompt=params.prompt,
            negative_prompt=params.negative_prompt,
            true_cfg_scale=params.true_cfg_scale,
            image=Image.fromarray(pixels),
            mask_image=Image.fromarray(region),
            height=64,
            width=64,
            strength=0.6,
            num_inference_steps=4,
            guidance_scale=params.guidance_scale,
            max_sequence_length=params.max_sequence_length,
            generator=torch.Generator().manual_seed(params.seed + index),
        ).images[0]
        assert compare(image.pixels, np.asarray(theirs)).is_exact
    with pytest.raises(InvalidRequest, match="pictures: the job has"):
        chain.generate(params)


def test_a_variation_without_a_prompt_has_no_text_at_all(dev_like: Path) -> None:
    stage = TextEncoderStage.load(str(dev_like))
    blank = TextPrompt(prompt="", max_sequence_length=8, is_blank=True)
    empty, said = (TextPrompt(prompt=text, max_sequence_length=8) for text in ("", "a cat"))
    made = stage.encode([said, blank, empty])
    assert made[0].num_tokens > made[2].num_tokens > made[1].num_tokens == 0
    assert all(not tensor.any() for tensor in made[1].tensors.values())
    assert all(tensor.any() for tensor in made[2].tensors.values())
    for name, tensor in made[1].tensors.items():
        assert (tensor.shape, tensor.dtype) == (made[0].tensors[name].shape, torch.float32)
