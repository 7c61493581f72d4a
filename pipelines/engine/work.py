"""What the scheduler knows of one image: numbers only, no tensors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Work:
    """One image to denoise.

    `group` is the request it belongs to. `tokens` is what one of its steps costs: text and image
    tokens of all its segments (two with true classifier-free guidance). `arrival` is in seconds of
    whatever clock the caller uses. `steps_done` is advanced by the scheduler alone.
    """

    id: str
    group: str
    tokens: int
    num_steps: int
    arrival: float
    steps_done: int = 0

    @property
    def is_done(self) -> bool:
        return self.steps_done >= self.num_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """The works that take one step together, in the order in which they are packed."""

    work_ids: tuple[str, ...]
