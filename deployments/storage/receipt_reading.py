"""From a file's bytes to the receipt in it, whoever made the file.

Only what frames a file is read, never its pixels, so that a small file that stands for a huge image
costs nothing; what is unpacked is bounded. A file must be whole, to its end.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from deployments.storage.receipt import MAX_BYTES, PNG_KEYWORD, Receipt, parse_receipt
from deployments.storage.xmp import EXTENSION_MARKER, joined_portions, read_packet
from pipelines.errors import InvalidRequest

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_XMP_MARKER = b"http://ns.adobe.com/xap/1.0/\x00"
_MAX_CHUNKS = 65_536
"""Of a file; encoders write fewer than a thousand for one of 16 MiB."""

_APP1, _SCAN = 0xE1, 0xDA
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD8))


class Chunk(NamedTuple):
    """A part of a file: its name or marker, and its content."""

    name: bytes | int
    content: memoryview


def read_receipt(data: bytes) -> Receipt:
    """The receipt in the file `data`. Raises InvalidRequest as `find_receipt`, and without one."""
    if (receipt := find_receipt(data)) is None:
        raise InvalidRequest(
            "the file has no receipt: another program wrote it, or one has stripped its metadata"
        )
    return receipt


def find_receipt(data: bytes) -> Receipt | None:
    """The receipt in the PNG, JPEG or WebP file `data`; None if there is none.

    Raises InvalidRequest, saying which: no such file, not a whole one, or with a receipt that is
    damaged or of another format.
    """
    text = _receipt_in(data)
    if text is None:
        return None
    if len(text) > MAX_BYTES:
        raise InvalidRequest(f"the file's receipt is damaged: it is over {MAX_BYTES} bytes")
    return parse_receipt(text)


def _receipt_in(data: bytes) -> str | None:
    if data.startswith(_PNG):
        return _one([text for chunk in png_chunks(data) for text in _png_text(chunk)])
    if data.startswith(_JPEG):
        return _jpeg_receipt(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        packets = [chunk.content for chunk in webp_chunks(data) if chunk.name == b"XMP "]
        return _one([read_packet(_bounded(packet)).receipt for packet in packets])
    raise InvalidRequest("the file is no image of a kind drawn here: PNG, JPEG or WebP")


def png_chunks(data: bytes) -> Iterator[Chunk]:
    """The chunks of a PNG, up to its end. Raises InvalidRequest."""
    view, at = memoryview(data), len(_PNG)
    for _ in range(_MAX_CHUNKS):
        length = int.from_bytes(view[at : at + 4])
        end = at + 12 + length
        if end > len(data):
            raise _truncated("PNG")
        name = bytes(view[at + 4 : at + 8])
        if name == b"IEND":
            return
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end]):
            raise InvalidRequest(
                f"the file is a damaged PNG: its {name.decode('latin-1')!r} has another checksum"
            )
        yield Chunk(name, view[at + 8 : end - 4])
        at = end
    raise _too_many("PNG")


def jpeg_segments(data: bytes) -> Iterator[Chunk]:
    """The segments of a JPEG before its first scan. Raises InvalidRequest."""
    view, at = memoryview(data), 2
    for _ in range(_MAX_CHUNKS):
        while at < len(data) and data[at] == 0xFF and data[at + 1 : at + 2] == b"\xff":
            at += 1  # fill bytes
        if at + 4 > len(data):
            raise _truncated("JPEG")
        if data[at] != 0xFF:
            raise InvalidRequest("the file is a damaged JPEG: there is no marker after a segment")
        marker = data[at + 1]
        if marker in _WITHOUT_LENGTH:
            at += 2
            continue
        end = at + 2 + max(2, int.from_bytes(view[at + 2 : at + 4]))
        if end > len(data) or (marker == _SCAN and data.find(_JPEG_END, end) < 0):
            raise _truncated("JPEG")
        if marker == _SCAN:
            return
        yield Chunk(marker, view[at + 4 : end])
        at = end
    raise _too_many("JPEG")


def webp_chunks(data: bytes) -> Iterator[Chunk]:
    """The chunks of a WebP. Raises InvalidRequest."""
    view, at = memoryview(data), 12
    whole = 8 + int.from_bytes(view[4:8], "little")
    if whole > len(data):
        raise _truncated("WebP")
    for _ in range(_MAX_CHUNKS):
        if at >= whole:
            return
        length = int.from_bytes(view[at + 4 : at + 8], "little")
        end = at + 8 + length
        if end > whole:
            raise _truncated("WebP")
        yield Chunk(bytes(view[at : at + 4]), view[at + 8 : end])
        at = end + length % 2
    raise _too_many("WebP")


def _png_text(chunk: Chunk) -> Iterator[str]:
    """The receipt of an iTXt chunk, if it has one, packed or not."""
    keyword = PNG_KEYWORD.encode("latin-1") + b"\0"
    if chunk.name != b"iTXt" or chunk.content[: len(keyword)] != keyword:
        return
    head, body = chunk.content[len(keyword) :][:2], bytes(chunk.content[len(keyword) + 2 :])
    parts = body.split(b"\0", 2)  # language, translated keyword, text
    if len(head) < 2 or len(parts) < 3:
        raise InvalidRequest("the file's receipt is damaged: its chunk is not whole")
    text = _unpacked(parts[2]) if head[0] == 1 else parts[2]
    yield _decoded(text)


def _jpeg_receipt(data: bytes) -> str | None:
    segments = [bytes(each.content) for each in jpeg_segments(data) if each.name == _APP1]
    extensions = [each for each in segments if each.startswith(EXTENSION_MARKER)]
    packets = [each for each in segments if each.startswith(_XMP_MARKER)]
    if len(packets) > 1:
        raise InvalidRequest("the file is a damaged JPEG: it has several XMP packets")
    if not packets:
        return None
    found = read_packet(packets[0][len(_XMP_MARKER) :])
    if found.receipt is not None or found.extension is None:
        return found.receipt
    whole = joined_portions(extensions, found.extension, max_bytes=2 * MAX_BYTES)
    return read_packet(whole).receipt


def _one(receipts: Sequence[str | None]) -> str | None:
    """The receipt, if there is one. Raises InvalidRequest if there are several."""
    found = [receipt for receipt in receipts if receipt is not None]
    if len(found) > 1:
        raise InvalidRequest("the file has several receipts, and one at most can be true")
    return found[0] if found else None


def _unpacked(data: bytes) -> bytes:
    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(data, MAX_BYTES + 1)
    except zlib.error as error:
        raise InvalidRequest(f"the file's receipt is damaged: {error}") from error
    if not unpacking.eof and len(text) <= MAX_BYTES:
        raise InvalidRequest("the file's receipt is damaged: it ends too early")
    return text


def _decoded(text: bytes) -> str:
    if len(text) > MAX_BYTES:
        raise InvalidRequest(f"the file's receipt is damaged: it is over {MAX_BYTES} bytes")
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest("the file's receipt is damaged: it is not UTF-8") from error


def _bounded(packet: memoryview) -> bytes:
    if len(packet) > 2 * MAX_BYTES:
        raise InvalidRequest(f"the file's XMP is over {2 * MAX_BYTES} bytes, the limit")
    return bytes(packet)


def _truncated(kind: str) -> InvalidRequest:
    return InvalidRequest(f"the file is not whole: it ends in the middle of the {kind}")


def _too_many(kind: str) -> InvalidRequest:
    return InvalidRequest(f"the file is no sound {kind}: it has over {_MAX_CHUNKS} parts")
