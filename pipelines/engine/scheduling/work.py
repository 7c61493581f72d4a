"""What the scheduler knows of one image: numbers only, no tensors.

Times are in seconds of whatever clock the caller uses, the same for all works of a scheduler.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pipelines.cuts import Cut
from pipelines.engine.costs.surface import EMPTY, Load


@dataclass(slots=True, kw_only=True)
class Work:
    """One image to denoise.

    `group` is the request that it belongs to: its images share deadline and priority, and are on
    time only together. `segments` are the tokens of each segment of one step (two with true
    classifier-free guidance); `num_steps` the forwards in all, which the scheduler may lower to
    `min_steps`. `num_bytes` is the memory that it takes while its trajectory is kept. A work that
    `is_promised` was admitted because its deadline can be kept: a later one must not break that.

    `can_cut` says whether its schedule can be cut to fewer steps at all. One that `is_kept` is
    good enough as it is: it ends with its next step, but never with its first.

    `steps_done`, `num_steps`, `is_kept` and `is_resident` are changed by the scheduler alone.
    """

    id: str
    group: str
    segments: tuple[int, ...]
    num_steps: int
    arrival: float
    tenant: str = ""
    deadline: float | None = None
    priority: int = 0
    min_steps: int | None = None
    num_bytes: int = 0
    is_promised: bool = False
    can_cut: bool = True
    is_kept: bool = False
    steps_done: int = 0
    is_resident: bool = False
    load: Load = field(init=False)

    def __post_init__(self) -> None:
        if self.num_steps < 1 or not self.segments:
            raise ValueError("a work has at least one segment and one step")
        self.load = Load.of(self.segments)

    @property
    def tokens(self) -> int:
        """Tokens of one step, over all segments."""
        return self.load.tokens

    @property
    def least_steps(self) -> int:
        """Steps in all if it ends as soon as it can."""
        return min(self.num_steps, max(self.steps_done, 1) + 1)

    @property
    def steps_left(self) -> int:
        return (self.least_steps if self.is_kept else self.num_steps) - self.steps_done

    @property
    def is_done(self) -> bool:
        return self.steps_done >= self.num_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """What happens next: `work_ids` take one step together, in the order in which they are packed.

    Before that, the trajectories of `parked` give their memory up (they can be resumed), and the
    schedules of `cuts` are shortened.
    """

    work_ids: tuple[str, ...]
    load: Load
    parked: tuple[str, ...] = ()
    cuts: tuple[tuple[str, Cut], ...] = ()


def load_of(works: Iterable[Work]) -> Load:
    """The load of a tick of `works`."""
    load = EMPTY
    for work in works:
        load = load.plus(work.load)
    return load
