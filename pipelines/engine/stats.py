"""What an engine says of itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipelines.engine.entry import Entry


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


@dataclass(slots=True)
class Counters:
    """What an engine counts of its own."""

    ticks: int = 0
    steps: int = 0
    preempted: int = 0

    def count_tick(self, works: int) -> None:
        """A tick of so many works."""
        self.ticks += 1
        self.steps += works

    def count_preempted(self, stepped: Sequence[Entry], chosen: Iterable[str]) -> None:
        """Those of the last tick that are not done, and not in the next."""
        ids = set(chosen)
        self.preempted += sum(not entry.future.done() and entry.id not in ids for entry in stepped)

    def stats(self, works: int, queued_s: float) -> EngineStats:
        """These, beside what the scheduler holds."""
        return EngineStats(works, queued_s, self.ticks, self.steps, self.preempted)
