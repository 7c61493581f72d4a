"""What an engine says of itself."""

from __future__ import annotations

from typing import NamedTuple


class EngineStats(NamedTuple):
    """A glance at the engine.

    `works` wait or run, and need `queued_s` seconds of it; so far it ran `ticks`, in which `steps`
    forwards of images were taken and `preempted` times an image had to pause that had begun.
    """

    works: int
    queued_s: float
    ticks: int
    steps: int
    preempted: int
