"""The section of the settings about pictures that come with requests."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field

from deployments.options.base import Options
from serve.webhooks.target import OriginPattern

MAX_PICTURES = 16
"""Of one request, as OpenAI has it, masks and control maps counted."""


def _origin_pattern(value: str) -> str:
    OriginPattern.parse(value)
    return value


def _nothing_in_words(value: object) -> object:
    """Text, split at commas before, that says that a list is empty."""
    return () if value in ([""], ["none"]) else value


class PicturesConfig(Options):
    """Which pictures requests may bring, and from where."""

    section: ClassVar[str] = "pictures"

    allow: Annotated[
        tuple[Annotated[str, AfterValidator(_origin_pattern)], ...],
        BeforeValidator(_nothing_in_words),
    ] = ()
    """Origins from which pictures are fetched that a request names by URL, such as
    https://images.example.com or https://*.example.com (any name below); https://* is every name. A
    port or http:// is allowed only where it is written. None: such URLs are refused."""

    allow_private: bool = False
    """Whether names may resolve to loopback and private addresses. Whoever may draw can then have
    pictures fetched from whatever `allow` matches inside of your network."""

    timeout_s: float = Field(default=10.0, gt=0, le=60)
    """Seconds that fetching one picture may take, name resolution and redirects included."""

    max_bytes: int = Field(default=24 * 2**20, ge=1024, le=32 * 2**20)
    """Bytes of one picture's file; the upper bounds of these are what the image encoder reads."""

    max_pixels: int = Field(default=50_000_000, ge=256, le=50_000_000)
    """Width times height of one picture as it comes; it is fitted to what is drawn."""

    max_side: int = Field(default=16_384, ge=16, le=16_384)
    """Longest side of one picture, pixels."""

    min_side: int = Field(default=16, ge=16)
    """Shortest side of one picture, pixels."""
