"""Cuts of a schedule: those made on the way, to keep a deadline or an image that is good enough,
and those asked for beforehand.

A cut made on the way can be asked for beforehand, and then the same image is drawn again. Pure: how
the noise levels are laid out anew is the family's affair (`FlowModel.cut_schedule`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple


class Cut(NamedTuple):
    """After `step` forwards, the rest of the schedule was re-cut, to `num_steps` in all."""

    step: int
    num_steps: int


def joined_cuts(planned: Sequence[Cut], made: Sequence[Cut]) -> tuple[Cut, ...]:
    """All cuts of a schedule: those that were `planned`, as far as those `made` on the way did not
    come before them."""
    if not made:
        return tuple(planned)
    return (*(cut for cut in planned if cut.step < made[0].step), *made)


def redrawn_by(num_steps: int, cuts: Sequence[Cut]) -> tuple[int, tuple[Cut, ...]]:
    """(steps, planned cuts) of the request that is drawn as one of `num_steps` with `cuts` was.

    What a second cut at the same step overrules is left out, and one before the first step is a
    request of so many steps. The result passes `check_cuts`.
    """
    kept: list[Cut] = []
    for cut in cuts:
        if kept and kept[-1].step == cut.step:
            kept.pop()
        kept.append(cut)
    if kept and kept[0].step == 0:
        num_steps = kept.pop(0).num_steps
    return num_steps, tuple(kept)


def check_cuts(num_steps: int, cuts: Sequence[Cut]) -> None:
    """Raises ValueError unless each of `cuts` shortens what the one before left of `num_steps`."""
    for before, cut in pairwise((Cut(0, num_steps), *cuts)):
        if not before.step < cut.step < cut.num_steps < before.num_steps:
            raise ValueError(
                f"[{cut.step}, {cut.num_steps}] does not follow {before.num_steps} steps after"
                f" {before.step}: of [step, steps in all], the first must grow from cut to cut, and"
                " the second shrink, but stay above the first"
            )
