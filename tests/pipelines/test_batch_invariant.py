"""What is computed in a batch has the bits that it has alone, with any number of threads."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel

from pipelines import batch_invariant
from pipelines.batch_invariant import make_batch_invariant, products_are_invariant
from pipelines.contracts import LatentJob, Latents, SamplingParams, TextPrompt
from pipelines.embedded import EMBEDDED_MODEL_DIR
from pipelines.flux1.prompt_tensors import PromptTensors
from pipelines.packing.linear import Linear, linear
from pipelines.stages.denoiser import DenoiserStage
from pipelines.stages.text_encoder import TextEncoderStage
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


@torch.inference_mode()
def test_steps_of_mixed_and_of_equal_sizes(threads: int) -> None:
    stage = DenoiserStage.load(str(EMBEDDED_MODEL_DIR))
    torch.manual_seed(0)
    text = stage.random_conditioning(32)

    def after_two_steps(jobs: Sequence[LatentJob]) -> list[torch.Tensor]:
        trajectories = [stage.admit(job, text, None) for job in jobs]
        for _ in range(2):
            stage.tick(trajectories)
        return [trajectory.latents for trajectory in trajectories]

    mixed = [(64, 80), (128, 112), (96, 64), (112, 112)]
    for sizes in (mixed * 2, [(112, 80)] * 4):
        jobs = [job(height, width, seed) for seed, (height, width) in enumerate(sizes)]
        together = after_two_steps(jobs)
        alone = [after_two_steps([each])[0] for each in jobs]
        assert all(map(torch.equal, together, alone)), sizes


@pytest.mark.parametrize(("out", "into"), [(160, 800), (128, 640), (128, 512), (480, 160)])
def test_products_have_the_bits_of_each_part_alone(out: int, into: int, threads: int) -> None:
    """On some CPUs those of many inputs have others by the number of rows: AVX-512's with AMX."""
    torch.manual_seed(0)
    layer = Linear(torch.randn(out, into), torch.randn(out))
    for counts in [(8, 300, 57), (20, 20, 500), (88, 88, 88, 88), (16,) * 12, (5, 3)]:
        x = torch.randn(sum(counts), into)
        together = linear(x, layer, counts).split(counts)
        for part, alone in zip(together, x.split(counts), strict=True):
            assert torch.equal(part, linear(alone, layer)), counts


def test_products_are_tried_out(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """On a CPU whose rows are alike, one that adds up odd rows otherwise is told apart."""
    kind = {"out": 24, "into": 16, "has_bias": True, "dtype": torch.float32}
    real = functional.linear

    def odd(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        return real(x, *rest) + (len(x) % 2)

    monkeypatch.setattr(functional, "linear", odd)
    batch_invariant._row_bits.cache_clear()
    batch_invariant._products_are_invariant.cache_clear()
    try:
        assert not products_are_invariant((33, 64), **kind)
        assert products_are_invariant((33, 65, 33), **kind)
    finally:
        batch_invariant._row_bits.cache_clear()
        batch_invariant._products_are_invariant.cache_clear()


@torch.inference_mode()
def test_prompts_of_a_wide_clip(dev_like: Path, threads: int) -> None:
    """So wide that a batch's activations are shared out to all threads."""
    stage = TextEncoderStage.load(str(dev_like))
    encoder: Any = stage._encoder
    config = CLIPTextConfig(**{**encoder._clip.config.to_dict(), "intermediate_size": 1024})
    torch.manual_seed(0)
    encoder._clip = CLIPTextModel(config).eval()
    # CLIP sees what stands before the end mark: texts that are as long as its window.
    texts = [f"{colour} square on the left of a dog " * 3 for colour in ("red", "green", "blue")]
    prompts = [TextPrompt(prompt=text, max_sequence_length=48) for text in texts]
    for prompt, together in zip(prompts, stage.encode(prompts), strict=True):
        (alone,) = stage.encode([prompt])
        assert all(map(torch.equal, PromptTensors.of(alone), PromptTensors.of(together)))


def job(height: int, width: int, seed: int) -> LatentJob:
    """Two steps of an image."""
    return LatentJob(
        work_id=f"w{seed}",
        group=f"w{seed}",
        sampling=SamplingParams(
            height=height, width=width, num_inference_steps=2, guidance_scale=3.5, seed=seed
        ),
    )


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
