"""What was drawn inside a mask, put back into the image that it was drawn for.

Outside of the mask every pixel is the image's own. Inside, a soft edge hides the seam, and the
drawn part is moved in colour where all of the seam agrees on how: a VAE shifts a whole picture
alike, but an object that the mask cuts through differs in one place only, and tints nothing.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

_SOFT_PIXELS = 6
"""Of the edge, inside the mask."""
_RING_PIXELS = 8
"""Around the mask, of which image and drawing are compared."""
_FEWEST = 64
"""Pixels that a comparison takes."""
_SECTORS = 8
_NOISE = 3.0
"""Levels of 255 by which a consistent difference may vary."""
_MOST_LEVELS = 24.0
"""Past that it is no shift of a VAE, but another picture."""


def paste_back(drawn: np.ndarray, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(height, width, 3), uint8: `image` with `drawn` inside of `mask` (height, width), bool.

    `drawn` and `image` are (height, width, 3), uint8, of one size. ValueError otherwise.
    """
    if not drawn.shape == image.shape == (*mask.shape, 3):
        raise ValueError(f"{drawn.shape}, {image.shape} and a mask of {mask.shape} do not fit")
    if not mask.any():
        return image.copy()
    matched = np.clip(drawn.astype(np.float32) + colour_shift(drawn, image, mask), 0, 255)
    share = soft_edge(mask)[:, :, None]
    blended = image + share * (matched - image)
    return np.where(mask[:, :, None], np.rint(blended).astype(np.uint8), image)


def soft_edge(mask: np.ndarray) -> np.ndarray:
    """(height, width), float32: 0 outside of `mask`, rising to 1 over the pixels inside its edge.

    The picture's own border is no edge: nothing is to be hidden there.
    """
    total, inner = np.zeros(mask.shape, np.float32), mask
    for _ in range(_SOFT_PIXELS):
        total += inner
        inner = _shrunk(inner)
    return total / _SOFT_PIXELS


def colour_shift(drawn: np.ndarray, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(3,), float32: what to add to `drawn` so that it meets `image` around `mask`; zeros where the
    differences there do not agree."""
    none, ring = np.zeros(3, np.float32), _grown(mask, _RING_PIXELS) & ~mask
    if ring.sum() < _FEWEST:
        return none
    gaps = image[ring].astype(np.float32) - drawn[ring].astype(np.float32)
    shift = np.median(gaps, axis=0)
    spread = np.median(np.abs(gaps - shift), axis=0)
    if np.abs(shift).max() > _MOST_LEVELS or spread.max() > _NOISE:
        return none
    for part in _sectors(ring, mask):
        if part.sum() >= _FEWEST // _SECTORS:
            away = np.abs(np.median(gaps[part], axis=0) - shift)
            if away.max() > _NOISE:
                return none
    return shift.astype(np.float32)


def _sectors(ring: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    """Of the pixels in `ring`, those in each direction from the middle of `mask`, (n,) bool."""
    rows, columns = np.nonzero(ring)
    middle = [where.mean() for where in np.nonzero(mask)]
    angles = np.arctan2(rows - middle[0], columns - middle[1])
    sector = ((angles + np.pi) / (2 * np.pi) * _SECTORS).astype(int) % _SECTORS
    return [sector == index for index in range(_SECTORS)]


def _shrunk(mask: np.ndarray) -> np.ndarray:
    around = np.pad(mask, 1, mode="edge")
    return np.asarray(_filtered(around, ImageFilter.MinFilter(3)))[1:-1, 1:-1] > 0


def _grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    return np.asarray(_filtered(mask, ImageFilter.MaxFilter(2 * pixels + 1))) > 0


def _filtered(mask: np.ndarray, rule: ImageFilter.RankFilter) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) * 255).filter(rule)
