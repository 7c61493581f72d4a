"""Files of pictures, good and bad."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from pipelines.pictures.recipe import PictureSource

SIZE = (40, 24)
"""Width and height of what is not said otherwise."""


def gradient(width: int = SIZE[0], height: int = SIZE[1]) -> np.ndarray:
    """RGB that differs everywhere."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 9, columns * 6, rows + columns], axis=2).astype(np.uint8)


def encoded(picture: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def source(data: bytes, name: str = "image") -> PictureSource:
    return PictureSource(sha256=hashlib.sha256(data).hexdigest(), name=name, data=data)


def chunk(kind: bytes, body: bytes) -> bytes:
    checked = kind + body
    return struct.pack(">I", len(body)) + checked + struct.pack(">I", zlib.crc32(checked))


def png_with(*chunks: bytes, size: tuple[int, int] = SIZE) -> bytes:
    """A PNG with more chunks after its header, which may claim any size."""
    whole = encoded(gradient())
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    return whole[:8] + header + b"".join(chunks) + whole[33:]
