"""What admission is told about a deadline."""

from __future__ import annotations

from typing import NamedTuple


class Promise(NamedTuple):
    """Whether a work's deadline can be kept, with every promise that was made before.

    `earliest_s` is the shortest deadline that could be promised now, in seconds from now; `alone_s`
    is what the work's request needs on an idle engine.
    """

    is_kept: bool
    earliest_s: float
    alone_s: float
