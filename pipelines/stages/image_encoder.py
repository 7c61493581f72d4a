"""The image encoder stage: prepared pictures to what the denoiser takes of them."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
import torch

from pipelines.catalog import DEFAULT_FAMILY
from pipelines.contracts import EncodedPicture, PreparedPicture
from pipelines.devices import total_memory
from pipelines.errors import DegenerateImage
from pipelines.families import ImageEncoder, family_named
from pipelines.tasks import PictureRole
from pipelines.tiling import Tiling, tiling_for


class ImageEncoderStage:
    """Encodes pictures, each by itself: in a batch their last bits would depend on the others.

    Those that `tiling` covers are encoded in tiles, which changes their bits.
    """

    def __init__(self, encoder: ImageEncoder, tiling: Tiling | None = None) -> None:
        self._encoder = encoder
        self.tiling = tiling

    @classmethod
    def load(
        cls,
        source: str,
        *,
        family: str = DEFAULT_FAMILY,
        device: str = "cpu",
        dtype: str = "float32",
        variations: str | None = None,
        tile_from_pixels: int | None = None,
        device_share: float = 1.0,
    ) -> ImageEncoderStage:
        """The stage with the weights of `source`, and of `variations` for pictures that become
        text; tiles begin at `tile_from_pixels`, None: as `pipelines.tiling` has it for this share
        of the device. Raises CheckpointError, ConfigurationError."""
        load = family_named(family).load_image_encoder
        encoder = load(source, device=device, dtype=dtype, variations=variations)
        tiling = tiling_for(
            encoder.tile_size,
            tile_from_pixels,
            memory=int(total_memory(encoder.device) * device_share),
            bytes_of=encoder.picture_bytes,
        )
        return cls(encoder, tiling)

    @torch.inference_mode()
    def encode(self, pictures: Sequence[PreparedPicture]) -> list[EncodedPicture]:
        """One for each picture, in order.

        Raises DegenerateImage for values that are not finite, UnsupportedFeature for a picture that
        is to become text where no model does that.
        """
        return [self._encode(picture) for picture in pictures]

    def _encode(self, picture: PreparedPicture) -> EncodedPicture:
        if picture.role is PictureRole.MASK:
            assert picture.mask is not None
            return encoded_mask(picture.mask)
        assert picture.pixels is not None
        tiled = self.tiling is not None and self.tiling.covers(*picture.pixels.shape[:2])
        encoded = self._encoder.encode(picture, tiled=tiled)
        if not bool(encoded.values.isfinite().all()):
            raise DegenerateImage(f"the encoder's values of the {picture.role} are not finite")
        return encoded


def encoded_mask(mask: np.ndarray) -> EncodedPicture:
    """A mask (height, width), bool, True where to draw anew: no model has a part in it."""
    height, width = mask.shape
    shape = f"{PictureRole.MASK} {height} {width}".encode()
    return EncodedPicture(
        role=PictureRole.MASK,
        height=height,
        width=width,
        values=torch.from_numpy(mask.astype(np.float32))[None],
        digest=sha256(shape + np.packbits(mask).tobytes()).hexdigest(),
    )
