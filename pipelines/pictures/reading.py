"""Pictures from the bytes that a client sent, within bounds that are checked before decoding.

PIL decodes; what it would do before anybody can ask how large a picture is (unpack the texts of a
PNG, lay out the canvas of a WebP) is bounded here first, from the headers.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageOps

from pipelines.errors import InvalidRequest

_PNG, _ANY_TEXT = b"\x89PNG\r\n\x1a\n", (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf")
_FORMATS = ("PNG", "JPEG", "WEBP")
_UNREADABLE = (
    OSError,
    SyntaxError,  # PIL's name for a damaged PNG
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
)
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_SPACES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}
"""Colour spaces of ICC profiles, and PIL's modes for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureLimits:
    """What a picture may be at most; sides are pixels. `chunks` are those of a PNG that hold no
    pixels, `text_bytes` what its texts and profile are, unpacked, all together."""

    max_bytes: int = 32 * 2**20
    max_pixels: int = 50_000_000
    max_side: int = 16_384
    min_side: int = 16
    max_frames: int = 1
    max_chunks: int = 256
    max_text_bytes: int = 4 * 2**20


DEFAULT_LIMITS = PictureLimits()


class _Header(NamedTuple):
    """As far as it is known without PIL."""

    width: int
    height: int
    frames: int = 1


def open_picture(data: bytes, name: str, limits: PictureLimits = DEFAULT_LIMITS) -> Image.Image:
    """A picture, decoded, upright and of sRGB: of mode L, LA, RGB or RGBA, 8 bits a value.

    `name` is the request's field that it came in. Raises InvalidRequest, which names that field and
    a way out, for whatever is no PNG, JPEG or WebP, is damaged, or is over `limits`.
    """
    if len(data) > limits.max_bytes:
        raise _refused(name, f"is {len(data)} bytes; send at most {limits.max_bytes}")
    header = _header(data, name, limits)
    if header is not None:
        _check_size(header.width, header.height, header.frames, name, limits)
    try:
        opened = Image.open(io.BytesIO(data), formats=_FORMATS)
        frames = getattr(opened, "n_frames", 1) if opened.format in ("PNG", "WEBP") else 1
        _check_size(*opened.size, frames, name, limits)
        opened.load()
    except _BOMBS as error:
        raise _refused(name, f"has more than {limits.max_pixels} pixels") from error
    except InvalidRequest:
        raise
    except _UNREADABLE as error:
        raise _refused(
            name, f"cannot be read ({error}); send a whole PNG, JPEG or WebP file"
        ) from error
    upright: Any = ImageOps.exif_transpose(opened)
    return _in_srgb(_in_eight_bits(upright, name), opened.info.get("icc_profile"), name)


def rgb_over(
    picture: Image.Image, background: tuple[int, int, int] = (255, 255, 255)
) -> Image.Image:
    """As RGB; what is transparent becomes `background`."""
    if "A" not in picture.getbands():
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    below = Image.new("RGBA", picture.size, (*background, 255))
    return Image.alpha_composite(below, picture).convert("RGB")


def _refused(name: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{name}: {reason}", param=name)


def _check_size(width: int, height: int, frames: int, name: str, limits: PictureLimits) -> None:
    least, most = limits.min_side, limits.max_side
    if not (least <= width <= most and least <= height <= most):
        raise _refused(name, f"is {width}x{height}; each side must have {least} to {most} pixels")
    if width * height > limits.max_pixels:
        raise _refused(name, f"is {width}x{height}; send at most {limits.max_pixels} pixels")
    if frames > limits.max_frames:
        raise _refused(name, f"has {frames} frames; send a picture that does not move")


def _header(data: bytes, name: str, limits: PictureLimits) -> _Header | None:
    """What the first bytes say, for the formats that PIL does more with than look at them."""
    if data.startswith(_PNG):
        return _png_header(data, name, limits)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp_header(data)
    return None


def _png_header(data: bytes, name: str, limits: PictureLimits) -> _Header:
    """Walks all chunks, unpacking no more than is allowed."""
    found, frames, others, left = None, 1, 0, limits.max_text_bytes
    for kind, body in _chunks(data):
        if kind == b"IHDR" and len(body) >= 8:
            found = struct.unpack(">II", body[:8])
        elif kind == b"acTL" and len(body) >= 4:
            (frames,) = struct.unpack(">I", body[:4])
        elif kind in _ANY_TEXT:
            left -= _unpacked_length(body, left + 1)
        others += kind not in (b"IDAT", b"fdAT")
        if others > limits.max_chunks:
            raise _refused(
                name, f"has more than {limits.max_chunks} chunks beside its pixels; save it anew"
            )
        if left < 0:
            raise _refused(
                name,
                f"carries more than {limits.max_text_bytes} bytes of text; save it without any",
            )
    if found is None:
        raise _refused(name, "is a PNG without a header; send a whole file")
    return _Header(*found, frames)


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """(kind, body) of each chunk of a PNG, as far as they are whole."""
    view, place = memoryview(data), len(_PNG)
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", view[place : place + 4])
        end = place + 12 + length
        if end > len(data):
            return
        yield bytes(view[place + 4 : place + 8]), view[place + 8 : end - 4]
        place = end


def _unpacked_length(body: memoryview, most: int) -> int:
    """Bytes of a text as it is, or, where a zlib stream begins in it, unpacked up to `most`."""
    text = bytes(body)
    total = len(text)
    for start in _stream_starts(text):
        stream = zlib.decompressobj()
        try:
            total = max(total, len(stream.decompress(text[start:], most)))
        except zlib.error:
            continue
    return total


def _stream_starts(text: bytes) -> Iterator[int]:
    """Where a compressed text of a PNG may begin: after its keyword, and for iTXt after two more
    zero-ended strings."""
    after = text.find(b"\0") + 1
    if not after:
        return
    yield after + 1
    place = after + 2
    for _ in range(2):
        place = text.find(b"\0", place) + 1
        if not place:
            return
    yield place


def _webp_header(data: bytes) -> _Header | None:
    kind = data[12:16]
    if kind == b"VP8X" and len(data) >= 30:
        width, height = (
            1 + int.from_bytes(data[start : start + 3], "little") for start in (24, 27)
        )
        return _Header(width, height)
    if kind == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return _Header(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    if kind == b"VP8 " and len(data) >= 30:
        width, height = struct.unpack("<HH", data[26:30])
        return _Header(width & 0x3FFF, height & 0x3FFF)
    return None


def _in_eight_bits(picture: Image.Image, name: str) -> Image.Image:
    """Of mode L, LA, RGB, RGBA or CMYK."""
    mode = picture.mode
    if mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
        is_keyed = "transparency" in picture.info and mode in ("L", "RGB")
        return picture.convert("RGBA") if is_keyed else picture
    if mode == "1":
        return picture.convert("L")
    if mode in ("P", "PA"):
        has_alpha = mode == "PA" or "transparency" in picture.info
        return picture.convert("RGBA" if has_alpha else "RGB")
    if mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64)  # 16 bits, whatever PIL holds them in
        return Image.fromarray((values.clip(0, 65_535) >> 8).astype(np.uint8))
    raise _refused(name, f"has pixels of the kind {mode}; save it as 8 bits RGB")


def _in_srgb(picture: Image.Image, profile: bytes | None, name: str) -> Image.Image:
    """`picture`, converted where it has a profile. CMYK has no meaning without one."""
    if profile is None:
        if picture.mode == "CMYK":
            raise _refused(name, "is CMYK without a colour profile; save it as RGB")
        return picture
    try:
        source: Any = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = _SPACES.get(source.profile.xcolor_space.strip())
        if space is None:
            raise _refused(name, "has a colour profile of another space than RGB; save it as sRGB")
        alpha = picture.getchannel("A") if "A" in picture.getbands() else None
        if picture.mode == "CMYK" and space != "CMYK":
            raise _refused(name, "is CMYK with a profile of RGB; save it as RGB")
        colours = ImageCms.profileToProfile(
            picture.convert(space), source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError) as error:
        raise _refused(name, "has a damaged colour profile; save it as sRGB") from error
    assert colours is not None
    if alpha is not None:
        colours.putalpha(alpha)
    return colours
