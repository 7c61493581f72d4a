"""Pictures of the tests, as files."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from typing import Any

from PIL import Image


def picture(
    width: int = 128,
    height: int = 64,
    *,
    file_format: str = "png",
    mode: str = "RGB",
    colour: Any = "red",
    **options: Any,
) -> bytes:
    """A file of one colour."""
    file = io.BytesIO()
    Image.new(mode, (width, height), colour).save(file, file_format, **options)
    return file.getvalue()


def holed(width: int = 128, height: int = 64) -> bytes:
    """A PNG that is transparent in its left half: OpenAI's mask."""
    image = Image.new("RGBA", (width, height), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, width // 2, height))
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def turned(width: int, height: int, orientation: int, file_format: str = "jpeg") -> bytes:
    """A file whose EXIF says how it is to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return picture(width, height, file_format=file_format, exif=exif)


def moving(file_format: str, frames: int = 3) -> bytes:
    file = io.BytesIO()
    images = [Image.new("RGB", (40, 24), (60 * index, 0, 0)) for index in range(frames)]
    images[0].save(file, file_format, save_all=True, append_images=images[1:])
    return file.getvalue()


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A few bytes of PNG that claim to be as large."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def data_url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
