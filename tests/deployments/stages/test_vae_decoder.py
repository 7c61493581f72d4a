from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from pipelines.tiling import Tiling
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


async def test_it_says_of_an_image_that_it_was_tiled(dev_like: Path) -> None:
    decoder = VaeDecoder(tiny_spec(dev_like), VaeDecoderOptions(tile_from_pixels=64 * 48))
    rule = Tiling(size=32, from_pixels=64 * 48)
    whole, tiled = await asyncio.gather(
        decoder.decode(_packed(0, 48, 48)), decoder.decode(_packed(1, 48, 64))
    )
    assert [stage.tiling for stage in whole.drawn_by] == [None]
    assert [stage.tiling for stage in tiled.drawn_by] == [rule]
    assert [stage.tiling for stage in await decoder.provenance()] == [rule]
    stages = (
        VaeDecoderStage.load(str(dev_like), tile_from_pixels=pixels) for pixels in (64 * 48, 2**30)
    )
    expected, other = (stage.decode([_latents(1, 48, 64)])[0] for stage in stages)
    assert isinstance(expected, DecodedImage)
    assert isinstance(other, DecodedImage)
    assert np.array_equal(tiled.pixels, expected.pixels)
    assert not np.array_equal(tiled.pixels, other.pixels)


def test_rules_by_default_go_by_batches_and_by_shares_of_a_gpu(dev_like: Path) -> None:
    def first_tiled(**options: Any) -> int:
        tiling = VaeDecoderStage.load(str(dev_like), **options).tiling
        assert tiling is not None
        return tiling.from_pixels

    assert first_tiled(batch=4) < first_tiled(batch=1)
    assert first_tiled(batch=4, device_share=0.25) < first_tiled(batch=4)
    assert VaeDecoderOptions(num_gpus=0.25).device_share == 0.25
    assert VaeDecoderOptions().device_share == VaeDecoderOptions(num_gpus=2).device_share == 1.0
