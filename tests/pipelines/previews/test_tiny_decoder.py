"""An autoencoder that an operator gives for previews."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny

from pipelines.errors import ConfigurationError
from pipelines.previews.tiny_decoder import TinyDecoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    vae: Any = AutoencoderTiny(
        latent_channels=16,
        encoder_block_out_channels=(4, 4, 4, 4),
        decoder_block_out_channels=(4, 4, 4, 4),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    )
    vae.save_pretrained(made, safe_serialization=True)
    return made


def load(folder: Path, *, channels: int = 16, longest: int = 512) -> TinyDecoder:
    return TinyDecoder.load(folder, latent_channels=channels, device="cpu", longest=longest)


@torch.inference_mode()
def test_it_decodes_as_diffusers_does_and_no_larger_than_is_shown(folder: Path) -> None:
    latents = torch.randn(16, 4, 8)
    vae: Any = AutoencoderTiny.from_pretrained(str(folder), use_safetensors=True)
    assert torch.equal(load(folder).decode(latents), vae.decode(latents[None]).sample[0])
    assert load(folder, longest=32).decode(latents).shape == (3, 16, 32)


def test_one_for_other_latents_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"denoiser.preview_decoder: .*16 channels.* 4;"):
        load(folder, channels=4)


@pytest.mark.parametrize("content", [None, "", "[]", '{"_class_name": "AutoencoderKL"}'])
def test_what_is_none_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigurationError, match=r"denoiser\.preview_decoder"):
        load(tmp_path)


def test_pickled_weights_are_not_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["latent_channels"] == 16
