"""The answer to `response_format: file`, as vLLM-Omni has it: the image itself, several as a zip.

What the JSON would have said besides is in headers.
"""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Mapping, Sequence

from starlette.responses import Response

from pipelines.contracts import FinishedImage

_MAX_WARNINGS_BYTES = 4096
"""Proxies allow about 8 KiB of headers in all."""


def file_response(
    images: Sequence[FinishedImage],
    *,
    warnings: Sequence[str],
    headers: Mapping[str, str],
) -> Response:
    """The file of one image, or `image_0.png` and so on in a zip; `images` have base64. Blocks.

    `x-sluice-seed` is the first image's seed, `x-sluice-warnings` a JSON array of strings, missing
    where there are none.
    """
    files = [base64.b64decode(image.b64 or "") for image in images]
    suffix, mark = images[0].output_format, images[0].sha256[:8]
    if len(files) == 1:
        data, media_type, name = files[0], f"image/{suffix}", f"image_{mark}.{suffix}"
    else:
        data, media_type, name = _zipped(files, suffix), "application/zip", f"images_{mark}.zip"
    sent = {
        **headers,
        "content-disposition": f'attachment; filename="{name}"',
        "x-sluice-seed": str(images[0].seed),
    }
    if warnings:
        sent["x-sluice-warnings"] = _in_header(warnings)
    return Response(data, media_type=media_type, headers=sent)


def _zipped(files: Sequence[bytes], suffix: str) -> bytes:
    """Stored, not compressed: images are already."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as writer:
        for index, data in enumerate(files):
            writer.writestr(zipfile.ZipInfo(f"image_{index}.{suffix}"), data)
    return archive.getvalue()


def _in_header(warnings: Sequence[str]) -> str:
    """A JSON array in ASCII of as many as fit, and how many more there were."""
    shown = list(warnings)
    while len(text := json.dumps([*shown, *_more(len(warnings) - len(shown))])) > (
        _MAX_WARNINGS_BYTES
    ):
        shown.pop()
    return text


def _more(count: int) -> list[str]:
    return [f"and {count} more"] if count else []
