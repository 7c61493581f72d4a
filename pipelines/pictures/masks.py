"""Masks: where to draw anew, in both worlds' meaning, as diffusers' mask processor reads them."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from pipelines.errors import InvalidRequest
from pipelines.pictures.reading import rgb_over
from pipelines.pictures.recipe import Fit, MaskMeaning
from pipelines.pictures.resizing import fitted

_HALF = 0.5


def grey_mask(picture: Image.Image, meaning: MaskMeaning, name: str) -> Image.Image:
    """A mask as grey (L), 255 where to draw anew.

    Of "white", what is transparent counts as black. Raises InvalidRequest for a "transparent" mask
    in which nothing can be.
    """
    if meaning == "white":
        return rgb_over(picture, (0, 0, 0)).convert("L")
    if "A" not in picture.getbands():
        raise InvalidRequest(
            f"{name}: has no transparency, and what is transparent is drawn anew; send a PNG with"
            " an alpha channel",
            param=name,
        )
    return ImageOps.invert(picture.getchannel("A"))


def check_same_size(image: tuple[int, int], mask: tuple[int, int], name: str) -> None:
    """Raises InvalidRequest unless a mask is as large as its image, both (width, height)."""
    if image != mask:
        (width, height), (mask_width, mask_height) = image, mask
        raise InvalidRequest(
            f"{name}: is {mask_width}x{mask_height}, and the image {width}x{height}; send a mask of"
            " the image's size",
            param=name,
        )


def mask_at(grey: Image.Image, height: int, width: int, fit: Fit = "stretch") -> np.ndarray:
    """(height, width), bool, True where to draw anew: from a half of white on."""
    values = np.asarray(fitted(grey, height, width, fit, background=0), dtype=np.float32) / 255.0
    return values >= _HALF


def is_empty(mask: np.ndarray) -> bool:
    """Whether there is nothing to draw anew."""
    return not bool(mask.any())
