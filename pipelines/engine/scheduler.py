"""Which works step next. Pure: no torch, no threads, and time comes in as an argument.

Policy: first in, first out. The oldest works step together as long as their tokens fit into
`max_tokens_per_tick`; nothing overtakes, so a work that has started runs to its end.
"""

from __future__ import annotations

from pipelines.engine.work import Tick, Work


class Scheduler:
    """Plans ticks over the works that it was given.

    `max_tokens_per_tick` bounds one packed forward; a single work larger than it still runs,
    alone. `max_works` bounds the works in one tick, and so the memory that trajectories take.
    """

    def __init__(self, *, max_tokens_per_tick: int, max_works: int) -> None:
        if max_tokens_per_tick < 1 or max_works < 1:
            raise ValueError("max_tokens_per_tick and max_works must be at least 1")
        self._max_tokens = max_tokens_per_tick
        self._max_works = max_works
        self._works: dict[str, Work] = {}

    def __len__(self) -> int:
        return len(self._works)

    @property
    def queued_tokens(self) -> int:
        """Tokens times steps that are still to be run."""
        return sum(
            work.tokens * (work.num_steps - work.steps_done) for work in self._works.values()
        )

    def add(self, work: Work) -> None:
        """Take a work on. Raises ValueError if its id is already known."""
        if work.id in self._works:
            raise ValueError(f"work {work.id!r} is already scheduled")
        self._works[work.id] = work

    def cancel(self, work_id: str) -> bool:
        """Forget a work; False if it is not known (any more)."""
        return self._works.pop(work_id, None) is not None

    def plan(self, now: float) -> Tick | None:
        """The next tick, or None when there is nothing to do.

        `now` is in the clock of `Work.arrival`; first in first out does not look at it.
        """
        del now
        chosen: list[str] = []
        tokens = 0
        for work in self._works.values():
            fits = tokens + work.tokens <= self._max_tokens and len(chosen) < self._max_works
            if chosen and not fits:
                break
            chosen.append(work.id)
            tokens += work.tokens
        return Tick(work_ids=tuple(chosen)) if chosen else None

    def advance(self, tick: Tick, now: float) -> tuple[Work, ...]:
        """Record that `tick` ran; returns the works that it finished and forgets them.

        Works of the tick that were cancelled meanwhile are passed over.
        """
        del now
        finished: list[Work] = []
        for work_id in tick.work_ids:
            work = self._works.get(work_id)
            if work is None:
                continue
            work.steps_done += 1
            if work.is_done:
                finished.append(self._works.pop(work_id))
        return tuple(finished)
