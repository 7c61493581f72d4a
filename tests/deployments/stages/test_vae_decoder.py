from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from deployments.options.stages import VaeDecoderOptions
from deployments.stages.vae_decoder import VaeDecoder
from deployments.wire.packed import PackedLatents
from deployments.wire.tensors import pack_latents
from pipelines.contracts import DecodedImage, Latents
from pipelines.errors import DegenerateImage
from pipelines.stages.vae_decoder import VaeDecoderStage
from tests.specs import tiny_spec


def _latents(seed: int, height: int = 32, width: int = 32, scale: float = 1.0) -> Latents:
    tokens = (height // 16) * (width // 16)
    packed = torch.randn(tokens, 64, generator=torch.Generator().manual_seed(seed)) * scale
    return Latents(packed=packed, height=height, width=width, steps_run=1, timings={"denoise": 0.5})


def _packed(seed: int, height: int = 32, width: int = 32, scale: float = 1.0) -> PackedLatents:
    return pack_latents(_latents(seed, height, width, scale))


async def test_it_decodes_as_the_stage_with_the_timings_of_all_before(dev_like: Path) -> None:
    decoder = VaeDecoder(tiny_spec(dev_like), VaeDecoderOptions())
    image = await decoder.decode(_packed(0, 48, 32))
    (expected,) = VaeDecoderStage.load(str(dev_like)).decode([_latents(0, 48, 32)])
    assert isinstance(expected, DecodedImage)
    assert image.pixels.shape == (48, 32, 3)
    assert np.array_equal(image.pixels, expected.pixels)
    assert image.timings["denoise"] == 0.5
    assert {"decode_wait", "decode"} <= image.timings.keys()
    assert await decoder.ready()
    decoder.check_health()


async def test_only_images_of_one_size_are_decoded_together(
    dev_like: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    decode = VaeDecoderStage.decode

    def counting(
        self: VaeDecoderStage, latents: Sequence[Latents]
    ) -> list[DecodedImage | DegenerateImage]:
        batches.append(len(latents))
        return decode(self, latents)

    monkeypatch.setattr(VaeDecoderStage, "decode", counting)
    decoder = VaeDecoder(tiny_spec(dev_like), VaeDecoderOptions(max_batch_size=4))
    sizes = [(32, 32), (48, 32), (32, 32), (48, 32), (32, 32)]
    images = await asyncio.gather(
        *(decoder.decode(_packed(i, *size)) for i, size in enumerate(sizes))
    )
    assert [image.pixels.shape[:2] for image in images] == sizes
    assert batches == [3, 2]


async def test_a_degenerate_image_fails_alone(dev_like: Path) -> None:
    decoder = VaeDecoder(tiny_spec(dev_like), VaeDecoderOptions())
    answers = await asyncio.gather(
        decoder.decode(_packed(0)),
        decoder.decode(_packed(1, scale=float("nan"))),
        decoder.decode(_packed(2)),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers] == [DecodedImage, DegenerateImage, DecodedImage]
    decoder.check_health()
