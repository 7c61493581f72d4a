"""Content security policies: how they name a style or script that stands in the page itself."""

from __future__ import annotations

import base64
import hashlib


def hash_source(text: str) -> str:
    """The source expression that allows exactly this text, quotes included."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
