"""Finished images, opened again and compared."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from pipelines.contracts import FinishedImage


def pixels_of(image: FinishedImage) -> np.ndarray:
    """The pixels (height, width, 3) of an inline image."""
    return np.asarray(_open(image))


def parameters_of(image: FinishedImage) -> str:
    """The parameters text inside an inline PNG."""
    return _open(image).info["parameters"]


def assert_same_image(left: np.ndarray, right: np.ndarray) -> None:
    """Sluice's promise for float32: at most one level apart, and nearly everywhere none."""
    difference = np.abs(left.astype(int) - right.astype(int))
    assert difference.max() <= 1
    assert (difference == 0).mean() >= 0.999


def _open(image: FinishedImage) -> Image.Image:
    assert image.b64 is not None
    opened = Image.open(io.BytesIO(base64.b64decode(image.b64)))
    opened.load()
    return opened
