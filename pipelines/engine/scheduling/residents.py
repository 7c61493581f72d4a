"""Which trajectories are kept in memory, within a bound on their bytes.

A work that steps is resident. When one that is to step finds no room, resident ones that do not
step give theirs up: they are parked (their latents and step index are kept by the engine, on the
host) and take memory again when their turn comes.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.engine.scheduling.group import Group
from pipelines.engine.scheduling.work import Work


class ResidentSet:
    """The resident works and their bytes; `max_bytes` None is no bound."""

    def __init__(self, max_bytes: int | None) -> None:
        self._max_bytes = max_bytes
        self._works: dict[str, Work] = {}
        self._bytes = 0

    @property
    def capacity(self) -> str:
        """The bound, in words; empty if there is none."""
        if self._max_bytes is None:
            return ""
        return f" and {self._max_bytes / 2**20:.0f} MiB of trajectories"

    def can_hold(self, work: Work) -> bool:
        """Whether there is room for `work` when nothing else is resident."""
        return self._max_bytes is None or work.num_bytes <= self._max_bytes

    def has_room(self, works: Sequence[Work]) -> bool:
        """Whether all of `works` can be resident at once."""
        if self._max_bytes is None:
            return True
        return sum(work.num_bytes for work in works) <= self._max_bytes

    def make_room(self, chosen: Sequence[Work], order: Sequence[Group]) -> tuple[str, ...]:
        """Make `chosen` resident; the ids of the works parked for them, the last in order first."""
        for work in chosen:
            if not work.is_resident:
                work.is_resident = True
                self._works[work.id] = work
                self._bytes += work.num_bytes
        if self._max_bytes is None or self._bytes <= self._max_bytes:
            return ()
        return tuple(self._park(chosen, order))

    def remove(self, work: Work) -> None:
        """Forget a work that is done, cancelled or parked."""
        if work.is_resident:
            work.is_resident = False
            del self._works[work.id]
            self._bytes -= work.num_bytes

    def _park(self, chosen: Sequence[Work], order: Sequence[Group]) -> list[str]:
        assert self._max_bytes is not None
        kept = {work.id for work in chosen}
        position = {group.id: index for index, group in enumerate(order)}
        parked: list[str] = []
        for work in sorted(self._works.values(), key=lambda work: -position[work.group]):
            if self._bytes <= self._max_bytes:
                break
            if work.id not in kept:
                self.remove(work)
                parked.append(work.id)
        return parked
