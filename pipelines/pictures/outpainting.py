"""Outpainting: an image with room around it, and the mask of that room."""

from __future__ import annotations

import numpy as np
from PIL import Image

from pipelines.errors import InvalidRequest
from pipelines.pictures.recipe import Padding

_MOST = 16
"""Times its own area that a padded image may have."""


def padded(image: Image.Image, padding: Padding, name: str) -> Image.Image:
    """RGB with `padding` around it, in the colours of its border, which a weak strength keeps.

    Raises InvalidRequest for padding below 0, or for a canvas of which the image is hardly a part.
    """
    if min(padding) < 0:
        raise InvalidRequest(f"padding: {tuple(padding)} has a side below 0", param="padding")
    width = image.width + padding.left + padding.right
    height = image.height + padding.top + padding.bottom
    if width * height > _MOST * image.width * image.height:
        raise InvalidRequest(
            f"padding: makes {width}x{height} of {name}, {image.width}x{image.height}; ask for at"
            f" most {_MOST} times its area",
            param="padding",
        )
    sides = ((padding.top, padding.bottom), (padding.left, padding.right), (0, 0))
    return Image.fromarray(np.pad(np.asarray(image), sides, mode="edge"))


def padded_mask(inner: Image.Image | None, size: tuple[int, int], padding: Padding) -> Image.Image:
    """Grey (L), 255 in the padding; inside, `inner` (L) of `size` (width, height), or nothing."""
    width, height = size
    whole = (width + padding.left + padding.right, height + padding.top + padding.bottom)
    canvas = Image.new("L", whole, 255)
    canvas.paste(inner or Image.new("L", size, 0), (padding.left, padding.top))
    return canvas
