"""What the head of a picture's file says: format, size, orientation, frames. Decodes no pixel.

Reads PNG, JPEG and WebP, what the image encoder decodes, by their framing alone, within bounds on
what it looks at; whether the pixels can be decoded is the encoder's to find out. A file that ends
too early is one here as far as its framing tells. Sources: PNG third edition; JPEG ITU T.81 annex
B; RFC 9649; EXIF 2.3, 4.6.4.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

MAX_PARTS = 65_536
"""Chunks or segments that are looked at."""

_PNG = b"\x89PNG\r\n\x1a\n"
_OTHERS = (
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"%PDF", "PDF"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML"),
)
_ALPHA_TYPES = (4, 6)
"""PNG colour types with an alpha channel."""
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE_MARKERS = frozenset(range(0xD0, 0xD9)) | {0x01}
_END, _SCAN, _EXIF = 0xD9, 0xDA, 0xE1
_ORIENTATION = 0x0112
_TURNED = 5
"""From this orientation on, width and height change places."""
_MAX_TAGS = 1000
_VP8X_ALPHA, _VP8X_MOVES = 0x10, 0x02
_SUPPORTED = "send PNG, JPEG or WebP"


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureHead:
    """Of one file. `width` and `height` are pixels as stored; `orientation` is EXIF's, 1 to 8.

    `frames` is 1, or at least 2 for what moves. `has_alpha` is whether anything can be transparent.
    """

    media_type: str
    width: int
    height: int
    orientation: int = 1
    has_alpha: bool = False
    frames: int = 1

    @property
    def upright(self) -> tuple[int, int]:
        """(height, width) in pixels, as the picture is seen."""
        is_turned = self.orientation >= _TURNED
        return (self.width, self.height) if is_turned else (self.height, self.width)


def read_head(data: bytes) -> PictureHead:
    """The head of the file `data`. Raises ValueError, which says what is wrong and what to send."""
    if data.startswith(_PNG):
        return _png(data)
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if not data:
        raise ValueError(f"is empty; {_SUPPORTED}")
    if data[4:8] == b"ftyp":
        raise ValueError(f"is a HEIF, AVIF or video file; {_SUPPORTED}")
    for begin, name in _OTHERS:
        if data.startswith(begin):
            raise ValueError(f"is {name}; {_SUPPORTED}")
    raise ValueError(f"is no picture; {_SUPPORTED}")


def _png(data: bytes) -> PictureHead:
    head: PictureHead | None = None
    for kind, begin, length in _chunks(data, len(_PNG), ">I4s", trailer=4, what="PNG"):
        if head is None:
            if kind != b"IHDR" or length != 13:
                raise ValueError("is a PNG without a head; save it again")
            width, height, _, colour = struct.unpack_from(">IIBB", data, begin)
            head = PictureHead(
                media_type="image/png",
                width=width,
                height=height,
                has_alpha=colour in _ALPHA_TYPES,
            )
        elif kind == b"tRNS":
            head = replace(head, has_alpha=True)
        elif kind == b"acTL" and length >= 8:
            head = replace(head, frames=max(1, *struct.unpack_from(">I", data, begin)))
        elif kind == b"eXIf":
            head = replace(head, orientation=_orientation(data[begin : begin + length]))
        elif kind == b"IEND":
            return head
    raise _cut("PNG")


def _webp(data: bytes) -> PictureHead:
    head: PictureHead | None = None
    frames = 0
    (size,) = struct.unpack_from("<I", data, 4)
    if size + 8 > len(data):
        raise _cut("WebP")
    chunks = _chunks(data[: size + 8], 12, "<4sI", trailer=0, what="WebP")
    for kind, begin, length in chunks:
        part = data[begin : begin + length]
        if head is None:
            head = _webp_canvas(kind, part)
            if kind != b"VP8X":
                return head
        elif kind == b"ANMF":
            frames += 1
        elif kind == b"EXIF":
            head = replace(head, orientation=_orientation(part.removeprefix(b"Exif\0\0")))
    if head is None:
        raise _cut("WebP")
    return replace(head, frames=max(frames, head.frames))


def _webp_canvas(kind: bytes, part: bytes) -> PictureHead:
    """Of the first chunk: a lossy frame, a lossless one, or the extended head."""
    if kind == b"VP8X" and len(part) >= 10:
        return PictureHead(
            media_type="image/webp",
            width=1 + int.from_bytes(part[4:7], "little"),
            height=1 + int.from_bytes(part[7:10], "little"),
            has_alpha=bool(part[0] & _VP8X_ALPHA),
            frames=2 if part[0] & _VP8X_MOVES else 1,
        )
    if kind == b"VP8 " and part[3:6] == b"\x9d\x01\x2a" and len(part) >= 10:
        width, height = struct.unpack_from("<HH", part, 6)
        return PictureHead(media_type="image/webp", width=width & 0x3FFF, height=height & 0x3FFF)
    if kind == b"VP8L" and part[:1] == b"\x2f" and len(part) >= 5:
        bits = int.from_bytes(part[1:5], "little")
        return PictureHead(
            media_type="image/webp",
            width=1 + (bits & 0x3FFF),
            height=1 + (bits >> 14 & 0x3FFF),
            has_alpha=bool(bits >> 28 & 1),
        )
    raise ValueError("is a WebP without a head; save it again")


def _chunks(
    data: bytes, at: int, layout: str, *, trailer: int, what: str
) -> Iterator[tuple[bytes, int, int]]:
    """(kind, begin, length) of each; WebP's are padded to even lengths, PNG's end in a checksum."""
    for _ in range(MAX_PARTS):
        if at == len(data):
            return
        if at + 8 > len(data):
            raise _cut(what)
        first, second = struct.unpack_from(layout, data, at)
        kind, length = (first, second) if isinstance(first, bytes) else (second, first)
        end = at + 8 + length + trailer
        if end > len(data):
            raise _cut(what)
        yield kind, at + 8, length
        at = end if trailer else min(end + length % 2, len(data))
    raise ValueError(f"is a {what} of more than {MAX_PARTS} parts; save it again")


def _jpeg(data: bytes) -> PictureHead:
    orientation, at = 1, 2
    for _ in range(MAX_PARTS):
        while data[at : at + 2] == b"\xff\xff":  # fill bytes
            at += 1
        if at + 4 > len(data):
            raise _cut("JPEG")
        if data[at] != 0xFF:
            raise ValueError("is a JPEG with a damaged head; save it again")
        marker = data[at + 1]
        at += 2
        if marker in _BARE_MARKERS:
            continue
        (length,) = struct.unpack_from(">H", data, at)
        if marker in (_SCAN, _END) or length < 2:
            raise ValueError("is a JPEG without a size in its head; save it again")
        if at + length > len(data):
            raise _cut("JPEG")
        if marker in _FRAME_MARKERS and length >= 8:
            height, width = struct.unpack_from(">HH", data, at + 3)
            return PictureHead(
                media_type="image/jpeg", width=width, height=height, orientation=orientation
            )
        if marker == _EXIF and data[at + 2 : at + 8] == b"Exif\0\0":
            orientation = _orientation(data[at + 8 : at + length])
        at += length
    raise ValueError(f"is a JPEG of more than {MAX_PARTS} parts; save it again")


def _orientation(exif: bytes) -> int:
    """The orientation that a TIFF structure names; 1 where it names none, or is damaged."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 8:
        return 1
    (at,) = struct.unpack_from(f"{order}I", exif, 4)
    if at + 2 > len(exif):
        return 1
    (count,) = struct.unpack_from(f"{order}H", exif, at)
    for index in range(min(count, _MAX_TAGS)):
        entry = at + 2 + 12 * index
        if entry + 12 > len(exif):
            return 1
        tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, entry)
        if tag == _ORIENTATION:
            return value if 1 <= value <= 8 else 1
    return 1


def _cut(what: str) -> ValueError:
    return ValueError(f"is a {what} that ends too early; send all of it")
