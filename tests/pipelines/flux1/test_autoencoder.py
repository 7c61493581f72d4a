"""Our decoder of the VAE against diffusers'."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from pipelines.errors import CheckpointError
from pipelines.flux1.autoencoder import FluxVae, VaeConfig
from pipelines.flux1.checkpoint import load_vae

FLUX: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


@pytest.mark.parametrize(
    "changes",
    [{}, {"use_post_quant_conv": True}, {"mid_block_add_attention": False}],
    ids=str,
)
def test_names_and_shapes_are_those_of_diffusers(changes: dict[str, Any]) -> None:
    config = {**FLUX, **changes}
    with torch.device("meta"):
        ours, theirs = FluxVae(VaeConfig.of(config)), AutoencoderKL(**config)
    assert {name: weight.shape for name, weight in ours.state_dict().items()} == {
        name: weight.shape
        for name, weight in theirs.state_dict().items()
        if not name.startswith(("encoder.", "quant_conv."))
    }


@torch.inference_mode()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pixels_are_theirs_to_the_bit(
    dtype: str, layout: torch.memory_format, dev_like: Path
) -> None:
    """Alone, a few, and as many as upsampling takes another way for; the sizes are not square."""
    ours: Any = load_vae(str(dev_like), device="cpu", dtype=dtype)
    theirs: Any = AutoencoderKL.from_pretrained(
        dev_like, subfolder="vae", torch_dtype=getattr(torch, dtype)
    )
    ours, theirs = ours.to(memory_format=layout), theirs.eval().to(memory_format=layout)
    assert not ours.training
    for batch, height, width in ((1, 8, 8), (3, 6, 14), (64, 2, 4)):
        latents = torch.randn(batch, 16, height, width, dtype=ours.dtype)
        latents = latents.contiguous(memory_format=layout)
        pixels = ours.decode(latents)
        assert pixels.shape == (batch, 3, 8 * height, 8 * width)
        assert torch.equal(pixels, theirs.decode(latents, return_dict=False)[0])


@torch.inference_mode()
@pytest.mark.parametrize(
    "changes",
    [
        {"use_post_quant_conv": True},
        {"mid_block_add_attention": False},
        {"layers_per_block": 2, "norm_num_groups": 1},
    ],
    ids=str,
)
def test_other_shapes_of_decoder_are_theirs_too(changes: dict[str, Any]) -> None:
    config = {**FLUX, "block_out_channels": (8, 8, 16, 24), "norm_num_groups": 4, **changes}
    theirs: Any = AutoencoderKL(**config).eval()
    ours = FluxVae(VaeConfig.of(config)).eval()
    ours.load_state_dict({name: theirs.state_dict()[name] for name in ours.state_dict()})
    latents = torch.randn(2, 16, 4, 6)
    assert torch.equal(ours.decode(latents), theirs.decode(latents, return_dict=False)[0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"act_fn": "relu"}, "vae: act_fn is relu, but FLUX.1's is silu"),
        ({"up_block_types": ["AttnUpDecoderBlock2D"] * 4}, "up_block_types are .*AttnUp"),
        ({"latent_channels": 4}, "conv_in"),
    ],
    ids=str,
)
def test_another_kind_of_vae_is_refused(
    dev_like: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    shutil.copy(dev_like / "model_index.json", tmp_path)
    shutil.copytree(dev_like / "vae", tmp_path / "vae")
    path = tmp_path / "vae/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=said):
        load_vae(str(tmp_path), device="cpu", dtype="float32")
