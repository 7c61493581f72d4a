"""Wall-clock budgets: a phase of training that always ends on time, and always ends annealed."""

import time
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """So many minutes from now on."""

    minutes: float
    started: float = field(default_factory=time.monotonic)

    def fraction(self) -> float:
        """How much of the budget is spent, from 0 to 1."""
        return min(1.0, (time.monotonic() - self.started) / (60 * self.minutes))

    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started


def annealed(fraction: float, *, warm_up: float = 0.02, hold: float = 0.4) -> float:
    """A factor on the learning rate: up over ``warm_up``, flat until ``hold``, linearly to zero."""
    if fraction < warm_up:
        return max(fraction / warm_up, 0.01)
    return min(1.0, (1.0 - fraction) / (1.0 - hold))
