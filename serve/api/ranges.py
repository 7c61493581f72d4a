"""Conditional and partial requests of a file that never changes (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

_RANGE = re.compile(r"bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", re.IGNORECASE)


def is_known(headers: Headers, etag: str) -> bool:
    """Whether the client has it already: `if-none-match` names it."""
    tags = [tag.strip().removeprefix("W/") for tag in _list(headers, "if-none-match")]
    return etag in tags or tags == ["*"]


def wanted_range(headers: Headers, etag: str, size: int) -> slice | None:
    """The bytes that are asked for, of `size`; None for all of them.

    Several ranges, another unit, or one of another file are answered with the whole, as the
    standard allows. Raises HTTPException 416 for a range that begins after the end.
    """
    found = _RANGE.fullmatch(headers.get("range", "").strip())
    if found is None or found.groups() == ("", "") or headers.get("if-range", etag) != etag:
        return None
    first, last = found.groups()
    if not first:  # the last bytes, so many
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < int(first):
            return None  # malformed
    if start >= size:
        raise HTTPException(
            416, f"range: the file has {size} bytes", headers={"content-range": f"bytes */{size}"}
        )
    return slice(start, stop)


def content_range(part: slice, size: int) -> str:
    """The header that says which bytes these are."""
    return f"bytes {part.start}-{part.stop - 1}/{size}"


def _list(headers: Headers, name: str) -> list[str]:
    return [part for value in headers.getlist(name) for part in value.split(",")]
