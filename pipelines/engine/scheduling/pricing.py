"""What steps and ticks cost within the bounds of a scheduler."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.engine.costs.surface import CostSurface, Load
from pipelines.engine.scheduling.work import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Pricing:
    """A cost surface under the bounds of one tick, which may end it before the knee does.

    `max_bytes` bounds the trajectories that can be kept, and so those that can step together; None
    is no bound.
    """

    surface: CostSurface
    max_tokens: int
    max_works: int
    max_bytes: int | None = None

    def step_s(self, work: Work) -> float:
        """Seconds of the engine that one step of `work` takes: its part of a full tick."""
        alike = min(self.max_works, self.max_tokens // work.tokens)
        if self.max_bytes is not None and work.num_bytes:
            alike = min(alike, self.max_bytes // work.num_bytes)
        return self.surface.share(work.load, at_most=alike)

    def tick_s(self, load: Load, num_works: int) -> float:
        """Seconds of a tick while `num_works` works of `load` in all wait: as full as can be."""
        part = min(1.0, self.max_works / max(1, num_works), self.max_tokens / max(1, load.tokens))
        surface = self.surface
        full_s = surface.base + part * surface.marginal(load)
        return min(max(surface.floor, full_s), surface.knee)
