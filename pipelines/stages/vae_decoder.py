"""The VAE decoder stage: packed latents to pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pipelines.catalog import DEFAULT_FAMILY
from pipelines.contracts import DecodedImage, Latents
from pipelines.devices import total_memory
from pipelines.errors import DegenerateImage
from pipelines.families import LatentDecoder, family_named
from pipelines.tiling import Tiling, tiling_for


class VaeDecoderStage:
    """Decodes latents, images of one size together, and checks what comes out.

    Images that `tiling` covers are decoded in tiles, which changes their bits.
    """

    def __init__(self, decoder: LatentDecoder, tiling: Tiling | None = None) -> None:
        self._decoder = decoder
        self.tiling = tiling

    @classmethod
    def load(
        cls,
        source: str,
        *,
        family: str = DEFAULT_FAMILY,
        device: str = "cpu",
        dtype: str = "float32",
        tile_from_pixels: int | None = None,
        batch: int = 1,
        device_share: float = 1.0,
    ) -> VaeDecoderStage:
        """The stage with the weights of `source`.

        Tiles begin at `tile_from_pixels`; None: as `pipelines.tiling` has it for batches of `batch`
        images and this share of the device. Raises CheckpointError, ConfigurationError.
        """
        load = family_named(family).load_latent_decoder
        decoder = load(source, device=device, dtype=dtype)
        tiling = tiling_for(
            decoder.tile_size,
            tile_from_pixels,
            memory=int(total_memory(decoder.device) * device_share),
            bytes_of=lambda pixels: decoder.batch_bytes(batch, pixels),
        )
        return cls(decoder, tiling)

    @torch.inference_mode()
    def decode(self, latents: Sequence[Latents]) -> list[DecodedImage | DegenerateImage]:
        """One image, or the reason why there is none, for each of `latents`, in order.

        All must have the same size; ValueError otherwise.
        """
        if not latents:
            return []
        pixels = self.values(latents)
        finite = pixels.isfinite().flatten(1).all(dim=1).tolist()
        images = (pixels.nan_to_num() * 0.5 + 0.5).clamp(0, 1).cpu().permute(0, 2, 3, 1)
        levels = (images.float().numpy() * 255).round().astype(np.uint8)
        return [_checked(image, ok) for image, ok in zip(levels, finite, strict=True)]

    @torch.inference_mode()
    def values(self, latents: Sequence[Latents]) -> torch.Tensor:
        """(B, 3, height, width) around -1..1, in the decoder's dtype, of latents of one size."""
        ((height, width),) = {(item.height, item.width) for item in latents}
        tiled = self.tiling is not None and self.tiling.covers(height, width)
        packed = [item.packed for item in latents]
        return self._decoder.decode(packed, height, width, tiled=tiled)


def _checked(pixels: np.ndarray, is_finite: bool) -> DecodedImage | DegenerateImage:
    """An image that is not finite, or all one value, is a failure of the model, not a result."""
    if not is_finite:
        return DegenerateImage("the decoded image has values that are not finite")
    if pixels.min() == pixels.max():
        return DegenerateImage(f"the decoded image is all one value ({int(pixels.min())} of 255)")
    return DecodedImage(pixels=pixels)
