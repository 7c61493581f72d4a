"""What trajectories of one kind share: schedules and rotary factors."""

from __future__ import annotations

from functools import lru_cache

from pipelines.families import FlowModel

_ROTARY_TABLES_KEPT = 16
_SCHEDULES_KEPT = 64
_LAYOUTS_KEPT = 32


class Tables:
    """Computed once for equal arguments. For one thread, and nobody writes into what it gives."""

    def __init__(self, model: FlowModel) -> None:
        self.rotary = lru_cache(_ROTARY_TABLES_KEPT)(model.rotary)
        self.schedule = lru_cache(_SCHEDULES_KEPT)(model.schedule)
        # Few distinct ones recur, and a set of trajectories stays together for many ticks.
        self.layout = lru_cache(_LAYOUTS_KEPT)(model.layout)
