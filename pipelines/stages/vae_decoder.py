"""The VAE decoder stage: packed latents to pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pipelines.catalog import DEFAULT_FAMILY
from pipelines.contracts import DecodedImage, Latents
from pipelines.errors import DegenerateImage
from pipelines.families import LatentDecoder, family_named


class VaeDecoderStage:
    """Decodes latents, images of one size together, and checks what comes out."""

    def __init__(self, decoder: LatentDecoder) -> None:
        self._decoder = decoder

    @classmethod
    def load(
        cls,
        source: str,
        *,
        family: str = DEFAULT_FAMILY,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> VaeDecoderStage:
        """The stage with the weights of `source`. Raises CheckpointError, ConfigurationError."""
        load = family_named(family).load_latent_decoder
        return cls(load(source, device=device, dtype=dtype))

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
        return self._decoder.decode([item.packed for item in latents], height, width)


def _checked(pixels: np.ndarray, is_finite: bool) -> DecodedImage | DegenerateImage:
    """An image that is not finite, or all one value, is a failure of the model, not a result."""
    if not is_finite:
        return DegenerateImage("the decoded image has values that are not finite")
    if pixels.min() == pixels.max():
        return DegenerateImage(f"the decoded image is all one value ({int(pixels.min())} of 255)")
    return DecodedImage(pixels=pixels)
