"""Pictures to what FLUX.1's denoiser takes: moments of the VAE, or text tokens of a variation."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipelines.contracts import EncodedPicture, PreparedPicture
from pipelines.errors import UnsupportedFeature
from pipelines.flux1.memory import encode_image_bytes
from pipelines.flux1.tiling import TileGrid, run_tiled
from pipelines.flux1.vae_encoder import FluxVaeEncoder
from pipelines.tasks import PictureRole

if TYPE_CHECKING:
    from pipelines.flux1.redux import FluxRedux


class FluxImageEncoder:
    """A `pipelines.families.ImageEncoder`: as diffusers' pipelines encode, to the same bits."""

    def __init__(self, vae: FluxVaeEncoder, redux: FluxRedux | None = None) -> None:
        self.vae = vae
        self.redux = redux
        self.device: torch.device = self.vae.device
        self.tile_size = self.vae.config.tile_size
        self._grid = TileGrid.of_encoder(self.vae.config)

    def picture_bytes(self, pixels: int) -> int:
        return encode_image_bytes(
            channels=self.vae.config.block_out_channels[0],
            pixels=pixels,
            itemsize=self.vae.dtype.itemsize,
        )

    def encode(self, picture: PreparedPicture, *, tiled: bool = False) -> EncodedPicture:
        assert picture.pixels is not None
        height, width = picture.pixels.shape[:2]
        config = self.vae.config
        if picture.as_text:
            if self.redux is None:
                raise UnsupportedFeature(
                    "task: no model here makes variations; name FLUX.1-Redux-dev", param="task"
                )
            values = self.redux.tokens(picture.pixels)
        else:
            pixels, encode = self._input(picture), self.vae.encode
            values = (run_tiled(encode, pixels, self._grid) if tiled else encode(pixels))[0]
        return EncodedPicture(
            role=picture.role,
            height=height,
            width=width,
            values=values.contiguous().cpu(),
            digest=_digest(picture, tiled=tiled),
            shift=config.shift_factor,
            scale=config.scaling_factor,
        )

    def _input(self, picture: PreparedPicture) -> torch.Tensor:
        """RGB (1, 3, height, width) in -1..1, in the memory format in which diffusers has it.

        Its image processor gives a view with channels innermost, which the first convolution goes
        by; only a control map is copied on its way, into one piece.
        """
        assert picture.pixels is not None
        pixels = _channels_first(picture.pixels.astype(np.float32) / 255.0)
        pixels = 2.0 * pixels - 1.0
        if picture.role is PictureRole.MASKED_IMAGE:
            assert picture.mask is not None
            pixels = pixels * (1 - _channels_first(picture.mask.astype(np.float32)[:, :, None]))
        if picture.role is PictureRole.CONTROL:
            pixels = pixels.contiguous()
        return pixels.to(self.vae.device, self.vae.dtype)


def _channels_first(values: np.ndarray) -> torch.Tensor:
    """(height, width, k) as (1, k, height, width), without a copy."""
    return torch.from_numpy(values[None].transpose(0, 3, 1, 2))


def _digest(picture: PreparedPicture, *, tiled: bool) -> str:
    """Of all that the result depends on, but the model."""
    assert picture.pixels is not None
    found = sha256(f"{picture.role} {picture.as_text} {picture.pixels.shape}".encode())
    if tiled and not picture.as_text:
        found.update(b" tiled")
    found.update(np.ascontiguousarray(picture.pixels).data)
    if picture.mask is not None:
        found.update(np.packbits(picture.mask).data)
    return found.hexdigest()
