"""Our encoder of the VAE against diffusers', and what the image encoder stage makes with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from pipelines.contracts import PreparedPicture
from pipelines.errors import CheckpointError, DegenerateImage, UnsupportedFeature
from pipelines.flux1.autoencoder import VaeConfig
from pipelines.flux1.checkpoint import load_vae_encoder
from pipelines.flux1.vae_encoder import FluxVaeEncoder
from pipelines.stages.image_encoder import ImageEncoderStage
from pipelines.tasks import PictureRole
from tests.pipelines.flux1.test_autoencoder import FLUX
from tests.tiny_pictures import picture


@pytest.mark.parametrize(
    "changes", [{}, {"use_quant_conv": True}, {"mid_block_add_attention": False}], ids=str
)
def test_names_and_shapes_are_those_of_diffusers(changes: dict[str, Any]) -> None:
    config = {**FLUX, **changes}
    with torch.device("meta"):
        ours, theirs = FluxVaeEncoder(VaeConfig.of(config)), AutoencoderKL(**config)
    assert {name: weight.shape for name, weight in ours.state_dict().items()} == {
        name: weight.shape
        for name, weight in theirs.state_dict().items()
        if name.startswith(("encoder.", "quant_conv."))
    }


@torch.inference_mode()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_moments_are_theirs_to_the_bit(
    dtype: str, layout: torch.memory_format, dev_like: Path
) -> None:
    ours: Any = load_vae_encoder(str(dev_like), device="cpu", dtype=dtype)
    theirs: Any = AutoencoderKL.from_pretrained(
        dev_like, subfolder="vae", torch_dtype=getattr(torch, dtype)
    )
    assert not ours.training
    for height, width in ((32, 32), (48, 112)):
        pixels = torch.rand(1, 3, height, width, dtype=ours.dtype).mul(2).sub(1)
        pixels = pixels.contiguous(memory_format=layout)
        moments = theirs.eval().encode(pixels).latent_dist.parameters
        assert moments.shape == (1, 32, height // 8, width // 8)
        assert torch.equal(ours.encode(pixels), moments)


@torch.inference_mode()
@pytest.mark.parametrize(
    "changes",
    [
        {"use_quant_conv": True},
        {"mid_block_add_attention": False},
        {"layers_per_block": 2, "norm_num_groups": 1},
    ],
    ids=str,
)
def test_other_shapes_of_encoder_are_theirs_too(changes: dict[str, Any]) -> None:
    config = {**FLUX, "block_out_channels": (8, 8, 16, 24), "norm_num_groups": 4, **changes}
    theirs: Any = AutoencoderKL(**config).eval()
    ours = FluxVaeEncoder(VaeConfig.of(config)).eval()
    ours.load_state_dict({name: theirs.state_dict()[name] for name in ours.state_dict()})
    pixels = torch.randn(1, 3, 32, 48)
    assert torch.equal(ours.encode(pixels), theirs.encode(pixels).latent_dist.parameters)


@torch.inference_mode()
def test_the_stage_encodes_as_the_pipelines_do(dev_like: Path) -> None:
    """Channels innermost, but for a control map; grey where a mask hides the image."""
    stage = ImageEncoderStage.load(str(dev_like))
    theirs: Any = AutoencoderKL.from_pretrained(dev_like, subfolder="vae").eval()
    pixels, mask = picture(1, 48, 64), picture(2, 48, 64)[..., 0] > 127
    given = VaeImageProcessor(vae_scale_factor=16).preprocess(Image.fromarray(pixels))
    assert not given.is_contiguous()
    inputs = {
        PictureRole.IMAGE: given,
        PictureRole.REFERENCE: given,
        PictureRole.CONTROL: given.repeat_interleave(1, dim=0),
        PictureRole.MASKED_IMAGE: given
        * (1 - torch.from_numpy(mask.astype(np.float32))[None, None]),
    }
    made = stage.encode([PreparedPicture(role=role, pixels=pixels, mask=mask) for role in inputs])
    for encoded, (role, expected) in zip(made, inputs.items(), strict=True):
        assert torch.equal(encoded.values, theirs.encode(expected).latent_dist.parameters[0]), role
        assert (encoded.role, encoded.height, encoded.width) == (role, 48, 64)
        assert (encoded.shift, encoded.scale) == (0.1159, 0.3611)
    (drawn,) = stage.encode([PreparedPicture(role=PictureRole.MASK, mask=mask)])
    assert torch.equal(drawn.values, torch.from_numpy(mask.astype(np.float32))[None])
    assert len({each.digest for each in (*made, drawn)}) == 5
    (again,) = stage.encode([PreparedPicture(role=PictureRole.IMAGE, pixels=pixels, mask=mask)])
    assert again.digest == made[0].digest


def test_what_cannot_be_encoded_says_why(dev_like: Path) -> None:
    stage = ImageEncoderStage.load(str(dev_like))
    text = PreparedPicture(role=PictureRole.REFERENCE, pixels=picture(1, 32, 32), as_text=True)
    with pytest.raises(UnsupportedFeature, match="Redux") as refused:
        stage.encode([text])
    assert refused.value.param == "task"
    encoder: Any = stage._encoder
    torch.nn.init.constant_(encoder.vae.encoder.conv_out.bias, float("nan"))
    with pytest.raises(DegenerateImage, match="of the image are not finite"):
        stage.encode([PreparedPicture(role=PictureRole.IMAGE, pixels=picture(1, 32, 32))])


def test_another_kind_of_encoder_is_refused(dev_like: Path, tmp_path: Path) -> None:
    shutil.copy(dev_like / "model_index.json", tmp_path)
    shutil.copytree(dev_like / "vae", tmp_path / "vae")
    path = tmp_path / "vae/config.json"
    config = {**json.loads(path.read_text()), "down_block_types": ["AttnDownEncoderBlock2D"] * 4}
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"down_block_types are .*Attn"):
        load_vae_encoder(str(tmp_path), device="cpu", dtype="float32")
