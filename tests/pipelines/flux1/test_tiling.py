"""Our tiles against those of diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from pipelines.contracts import DecodedImage, Latents, PreparedPicture
from pipelines.flux1.autoencoder import FluxVae, VaeConfig
from pipelines.flux1.latents import unpack
from pipelines.flux1.tiling import TileGrid, run_tiled
from pipelines.flux1.vae_encoder import FluxVaeEncoder
from pipelines.stages.image_encoder import ImageEncoderStage
from pipelines.stages.vae_decoder import VaeDecoderStage
from pipelines.tasks import PictureRole
from tests.pipelines.flux1.test_autoencoder import FLUX
from tests.tiny_pictures import picture

SIZES = [(9, 8), (7, 13), (16, 22), (25, 6), (24, 31)]
"""(h, w) in latents; a tile has 8."""

CONFIG = {
    **FLUX,
    "block_out_channels": (8, 8, 16, 24),
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "sample_size": 64,
}


def theirs_and(ours: Any, **changes: Any) -> tuple[Any, Any]:
    """diffusers' VAE that tiles, and one half of it as `ours` has it."""
    torch.manual_seed(0)
    config = {**CONFIG, **changes}
    theirs: Any = AutoencoderKL(**config).eval()
    theirs.enable_tiling()
    half = ours(VaeConfig.of(config)).eval()
    half.load_state_dict({name: theirs.state_dict()[name] for name in half.state_dict()})
    return theirs, half


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_decoding_is_theirs_to_the_bit(dtype: torch.dtype) -> None:
    theirs, ours = theirs_and(FluxVae, use_post_quant_conv=True)
    theirs, ours = theirs.to(dtype), ours.to(dtype)
    grid = TileGrid.of_decoder(ours.config)
    for height, width in SIZES:
        latents = torch.randn(2, 16, height, width, dtype=dtype)
        expected = theirs.decode(latents).sample
        assert expected.shape == (2, 3, 8 * height, 8 * width)
        assert torch.equal(run_tiled(ours.decode, latents, grid), expected), (height, width)
        assert not torch.equal(ours.decode(latents), expected)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_encoding_is_theirs_to_the_bit(dtype: torch.dtype, layout: torch.memory_format) -> None:
    theirs, ours = theirs_and(FluxVaeEncoder, use_quant_conv=True)
    theirs, ours = theirs.to(dtype), ours.to(dtype)
    grid = TileGrid.of_encoder(ours.config)
    for height, width in SIZES:
        pixels = torch.rand(1, 3, 8 * height, 8 * width, dtype=dtype).mul(2).sub(1)
        pixels = pixels.contiguous(memory_format=layout)
        expected = theirs.encode(pixels).latent_dist.parameters
        assert expected.shape == (1, 32, height, width)
        assert torch.equal(run_tiled(ours.encode, pixels, grid), expected), (height, width)
        assert not torch.equal(ours.encode(pixels), expected)


@torch.inference_mode()
def test_the_stages_tile_what_their_rule_covers(dev_like: Path) -> None:
    """From 48x64 pixels on, and in tiles of 32, which is what the tiny model's have."""
    theirs: Any = AutoencoderKL.from_pretrained(dev_like, subfolder="vae").eval()
    theirs.to(memory_format=torch.channels_last)
    decoder = VaeDecoderStage.load(str(dev_like), tile_from_pixels=48 * 64)
    encoder = ImageEncoderStage.load(str(dev_like), tile_from_pixels=48 * 64)
    digests = set[str]()
    for height, width, tiled in ((48, 48, False), (48, 64, True), (80, 112, True)):
        theirs.use_tiling = tiled
        packed = torch.randn(2, height // 16 * width // 16, 64)
        given = [Latents(packed=each, height=height, width=width, steps_run=1) for each in packed]
        scaled = unpack(packed, height=height, width=width) / 0.3611 + 0.1159
        scaled = scaled.contiguous(memory_format=torch.channels_last)
        expected = [theirs.decode(each[None]).sample[0] for each in scaled]
        assert torch.equal(decoder.values(given), torch.stack(expected)), (height, width)
        pixels = picture(1, height, width)
        prepared = PreparedPicture(role=PictureRole.CONTROL, pixels=pixels)
        (encoded,) = encoder.encode([prepared])
        values = torch.from_numpy(pixels.astype(np.float32) / 255.0).permute(2, 0, 1)[None]
        vae: Any = AutoencoderKL.from_pretrained(dev_like, subfolder="vae").eval()
        vae.use_tiling = tiled
        moments = vae.encode((2.0 * values - 1.0).contiguous()).latent_dist.parameters[0]
        assert torch.equal(encoded.values, moments)
        (whole,) = ImageEncoderStage.load(str(dev_like)).encode([prepared])
        assert (whole.digest == encoded.digest) is not tiled
        digests |= {whole.digest, encoded.digest}
    assert len(digests) == 5


def test_by_default_small_pictures_are_whole_anywhere(dev_like: Path) -> None:
    decoder, encoder = (stage.load(str(dev_like)) for stage in (VaeDecoderStage, ImageEncoderStage))
    for stage in (decoder, encoder):
        assert stage.tiling is not None
        assert (stage.tiling.size, stage.tiling.covers(224, 224)) == (32, False)
    packed = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    (image,) = decoder.decode([Latents(packed=packed, height=32, width=32, steps_run=1)])
    assert isinstance(image, DecodedImage)


@pytest.mark.parametrize(
    ("sample_size", "expected"), [(1024, 1024), ([512, 512], 512), (48, 0), (8, 0), (32, 32)]
)
def test_tiles_that_do_not_meet_are_none(sample_size: Any, expected: int) -> None:
    config = VaeConfig.of({**CONFIG, "sample_size": sample_size})
    assert config.tile_size == expected
