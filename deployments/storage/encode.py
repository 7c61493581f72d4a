"""Image files: pixels to PNG, JPEG or WebP, with the generation's parameters inside.

The text goes where the tools of this field look for it: the PNG chunk "parameters", and the EXIF
UserComment of JPEG and WebP. The receipt is apart from it: in a PNG chunk of its own, and in the
XMP of JPEG and WebP. Pure functions; nothing here knows where files are kept.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from deployments.storage.parameters import without_record
from deployments.storage.receipt import PNG_KEYWORD
from deployments.storage.xmp import jpeg_packet, packet
from pipelines.errors import InvalidRequest

CONTENT_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
"""Content type by `FinishSpec.output_format`."""

_PNG_COMPRESS_LEVEL = 3
"""A third of the time of zlib's default level, for files a few per cent larger."""

_APP1 = b"\xff\xe1"

_UNICODE_COMMENT = b"UNICODE\x00"

_MAX_JPEG_COMMENT_BYTES = 65_000
"""A JPEG segment, and so its EXIF, ends at 65,533 bytes; a chunk of PNG or WebP has no such end."""


def encode_image(
    pixels: np.ndarray,
    *,
    output_format: str,
    output_compression: int,
    parameters: str = "",
    receipt: str = "",
) -> bytes:
    """The file's bytes, for RGB `pixels` (height, width, 3) of uint8.

    `output_compression` 0..100 is the quality of JPEG and WebP. `parameters` and `receipt` are left
    out if empty. Raises ValueError for another format.
    """
    if output_format not in CONTENT_TYPES:
        raise ValueError(
            f"output_format {output_format!r} is not one of {', '.join(CONTENT_TYPES)}"
        )
    file = io.BytesIO()
    Image.fromarray(pixels).save(
        file,
        format=output_format,
        **_save_options(output_format, output_compression),
        **_metadata(output_format, parameters, receipt),
    )
    return file.getvalue()


def read_parameters(data: bytes) -> str:
    """The text that `encode_image` wrote into a file. Raises InvalidRequest."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            text = image.info.get("parameters")
            comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise InvalidRequest(f"the file is no image that can be read: {error}") from error
    if isinstance(comment, bytes) and comment.startswith(_UNICODE_COMMENT):
        text = comment.removeprefix(_UNICODE_COMMENT).decode("utf-16-be", "replace")
    if not isinstance(text, str):
        raise InvalidRequest("the file has no metadata about how it was drawn")
    return text


def _save_options(output_format: str, compression: int) -> dict[str, Any]:
    if output_format == "png":
        return {"compress_level": _PNG_COMPRESS_LEVEL}
    # Pillow reads a JPEG quality of 0 as the default of 75.
    return {"quality": max(compression, 1)}


def _metadata(output_format: str, parameters: str, receipt: str) -> dict[str, Any]:
    # A lone surrogate is legal in JSON, and in no encoding.
    parameters = parameters.encode("utf-8", "replace").decode("utf-8")
    if output_format == "png":
        chunks = PngInfo()
        for keyword, text in (("parameters", parameters), (PNG_KEYWORD, receipt)):
            if text:
                chunks.add_itxt(keyword, text)
        return {"pnginfo": chunks}
    if output_format == "jpeg":
        parameters = _shortened(parameters)
    comment = {"exif": _user_comment(parameters)} if parameters else {}
    return comment | (_xmp(output_format, receipt) if receipt else {})


def _xmp(output_format: str, receipt: str) -> dict[str, Any]:
    if output_format == "webp":
        return {"xmp": packet(receipt)}
    xmp = jpeg_packet(receipt)
    further = [_APP1 + (2 + len(each)).to_bytes(2) + each for each in xmp.portions]
    return {"xmp": xmp.packet, "extra": b"".join(further)}


def _user_comment(text: str) -> Image.Exif:
    """EXIF with `text` as its UserComment: UTF-16 in the byte order of the EXIF header, which
    readers assume, and big-endian, which those assume that do not look."""
    exif = Image.Exif()
    exif.endian = ">"
    comment = _UNICODE_COMMENT + text.encode("utf-16-be")
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    return exif


def _shortened(text: str) -> str:
    """The text with the end of its prompt cut, if needed: the settings, its last line, stay, and
    the record among them if they fit at all."""
    if _comment_bytes(text) <= _MAX_JPEG_COMMENT_BYTES:
        return text
    prompt, newline, settings = text.rpartition("\n")
    if _comment_bytes("…" + newline + settings) > _MAX_JPEG_COMMENT_BYTES:
        settings = without_record(settings)
    ending = ("…" + newline + settings).encode("utf-16-be")[:_MAX_JPEG_COMMENT_BYTES]
    start = prompt.encode("utf-16-be")[: _MAX_JPEG_COMMENT_BYTES - len(ending)]
    return (start + ending).decode("utf-16-be", "ignore")


def _comment_bytes(text: str) -> int:
    return len(text.encode("utf-16-be"))
