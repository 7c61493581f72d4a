"""A decoded image has the same bits whatever else is decoded with it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipelines.batch_invariant import make_batch_invariant
from pipelines.contracts import Latents
from pipelines.embedded import EMBEDDED_MODEL_DIR
from pipelines.stages.vae_decoder import VaeDecoderStage

SIZES = [(64, 64), (48, 80), (96, 96), (64, 176)]


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """The number of threads for a test."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(params=["carried", "tiny"])
def stage(request: pytest.FixtureRequest, dev_like: Path) -> VaeDecoderStage:
    """A decoder without attention, and one with it, as FLUX.1's."""
    carried = request.param == "carried"
    return VaeDecoderStage.load(str(EMBEDDED_MODEL_DIR if carried else dev_like))


def latents_of(stage: VaeDecoderStage, height: int, width: int, seed: int) -> Latents:
    generator = torch.Generator().manual_seed(seed)
    decoder: Any = stage._decoder
    config = decoder.vae.config
    packed = torch.randn(height * width // 256, 4 * config.latent_channels, generator=generator)
    return Latents(packed=packed, height=height, width=width, steps_run=1)


def test_batches_of_mixed_counts_and_sizes(stage: VaeDecoderStage, threads: int) -> None:
    """Compared before they are rounded to levels, which would hide most differences."""
    dice = random.Random(threads)
    differ: list[tuple[int, int, int]] = []
    for height, width in SIZES:
        count = dice.randint(2, 5)
        batch = [latents_of(stage, height, width, dice.randrange(1000)) for _ in range(count)]
        together = stage.values(batch)
        for index, item in enumerate(batch):
            if not torch.equal(together[index], stage.values([item])[0]):
                differ.append((height, width, count))
    assert differ == []


class Mixing(nn.Conv2d):
    """A convolution whose result depends on how many images there are."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) + len(input)


class Counting(nn.Conv2d):
    """A convolution that knows how large its batches were."""

    def __init__(self) -> None:
        super().__init__(4, 4, 1)
        self.batches: list[int] = []

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(input))
        return torch.stack([super(Counting, self).forward(image) for image in input])


@torch.inference_mode()
def test_a_convolution_that_depends_on_its_batch_is_run_image_by_image() -> None:
    model = nn.Sequential(nn.Sequential(Mixing(4, 4, 1)))
    make_batch_invariant(model)
    images = torch.randn(3, 4, 8, 8)
    alone = torch.cat([model(image) for image in images.split(1)])
    assert torch.equal(model(images), alone)


@torch.inference_mode()
def test_one_that_does_not_is_run_on_the_whole_batch_and_tried_once() -> None:
    conv = Counting()
    model = nn.Sequential(conv)
    make_batch_invariant(model)
    images = torch.randn(3, 4, 8, 8)
    model(images)
    assert conv.batches == [1, 1, 1, 3, 3]  # tried out, then asked for
    model(images + 1)
    assert conv.batches == [1, 1, 1, 3, 3, 3]
    model(images[:1])
    assert conv.batches[6:] == [1]


@torch.inference_mode()
def test_a_large_image_is_not_worth_trying() -> None:
    conv = Counting()
    model = nn.Sequential(conv)
    make_batch_invariant(model)
    model(torch.randn(2, 4, 72, 72))
    assert conv.batches == [1, 1]
