"""TinyDecoder: latents to pixels by a small autoencoder of the same latents, diffusers'
`AutoencoderTiny`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import interpolate

from pipelines.errors import ConfigurationError

_FIELD = "denoiser.preview_decoder"
_CLASS = "AutoencoderTiny"


class TinyDecoder:
    """Decodes latents of `latent_channels` channels to at most `longest` pixels a side."""

    def __init__(self, vae: Any, *, longest: int) -> None:
        self._vae = vae
        self._longest = longest
        self._scale = 2 ** (len(vae.config.decoder_block_out_channels) - 1)

    @classmethod
    def load(cls, folder: Path, *, latent_channels: int, device: str, longest: int) -> TinyDecoder:
        """From a local folder with `config.json` and weights as safetensors; no code of its own is
        run. Raises ConfigurationError for one that is none, or is for other latents."""
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{_FIELD}: {folder} has no config.json: {error}") from error
        name = config.get("_class_name") if isinstance(config, dict) else None
        if name != _CLASS:
            raise ConfigurationError(f"{_FIELD}: {folder} has a {name}; use an {_CLASS}")
        channels = config.get("latent_channels", 4)
        if channels != latent_channels:
            raise ConfigurationError(
                f"{_FIELD}: {folder} is for latents of {channels} channels, those of this model"
                f" have {latent_channels}; use the {_CLASS} of its family"
            )
        from diffusers import AutoencoderTiny

        vae: Any
        try:
            vae = AutoencoderTiny.from_pretrained(
                str(folder), use_safetensors=True, local_files_only=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigurationError(f"{_FIELD}: {folder} cannot be read: {error}") from error
        return cls(vae.to(device).eval(), longest=longest)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(3, H, W) around -1..1 of latents (C, h, w)."""
        batch = latents.to(torch.float32)[None]
        factor = self._longest / (self._scale * max(latents.shape[1:]))
        if factor < 1:
            batch = interpolate(batch, scale_factor=factor, mode="area")
        scaled = batch / self._vae.config.scaling_factor + self._vae.config.shift_factor
        return self._vae.decode(scaled).sample[0]
