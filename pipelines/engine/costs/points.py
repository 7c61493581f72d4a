"""One measured tick."""

from __future__ import annotations

from typing import NamedTuple


class Point(NamedTuple):
    """A tick over segments of these `lengths` in tokens took `seconds`."""

    lengths: tuple[int, ...]
    seconds: float
