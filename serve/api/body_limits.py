"""How large the body of a request to a path may be."""

from __future__ import annotations

import re

from serve.api.receipts import PATH as RECEIPTS
from serve.settings.settings import Limits

_TAKES_PICTURES = re.compile(
    r"/v1/images/(edits|variations|preflight)|/v1/jobs|/hf/image-to-image|/fal/.+"
    r"|/v1/(models/[^/]+/[^/]+/)?predictions"
)


def max_body_bytes(path: str, limits: Limits) -> int:
    """Bytes of the body of a request to `path`."""
    if path == RECEIPTS:
        return limits.max_file_bytes
    if _TAKES_PICTURES.fullmatch(path):
        return limits.max_picture_body_bytes
    return limits.max_body_bytes
