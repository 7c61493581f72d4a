"""What admission is told about a deadline."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from itertools import compress
from operator import attrgetter
from typing import NamedTuple

from pipelines.engine.scheduling.feasible import Feasible, earliest_finish, feasible_set
from pipelines.engine.scheduling.group import MARGIN, Group
from pipelines.engine.scheduling.table import Columns

_PUT_OFF = (1.25,) * 6 + (2.0,) * 10
"""The earliest time is estimated, and put off by these factors until it could be promised."""
_INSTANT_S = 1e-6

_deadline: Callable[[Group], float] = attrgetter("deadline")


class Promise(NamedTuple):
    """Whether a work's deadline can be kept, with every promise that was made before.

    `earliest_s` is the shortest deadline that could be promised now, in seconds from now; `least_s`
    is the shortest that an idle engine could promise.

    What is promised leaves time for the tick that runs, and for one more, that goes by age.
    """

    is_kept: bool
    earliest_s: float
    least_s: float


def least_s(newcomer: Group) -> float:
    """The shortest deadline, in seconds, that an idle engine could promise to a request."""
    return MARGIN * newcomer.least_alone_s + newcomer.tick_s


def promise_feasible(
    newcomer: Group, rivals: Sequence[Group], columns: Columns, begins: float, *, tick_s: float
) -> tuple[bool, float]:
    """(whether its deadline can be kept, when it can be done at the earliest) under `edf`.

    `rivals`, by deadline, are those that `newcomer` competes with from the time `begins` on, and
    `columns` are theirs.
    Promises made before are kept, and so is the margin that is left of them; nobody with a higher
    priority becomes late for it.
    """
    before = feasible_set(rivals, columns, begins, tick_s=tick_s)
    unharmed = {rivals[index].id for index in before.on_time}
    # Promised ones that can bear no longer ticks have the engine for themselves till they are due,
    # and so have those that cannot even wait until `begins`.
    tight = [*compress(before.on_time, (before.slack < 0).tolist()), *before.late]
    promised = [rivals[index].deadline for index in tight if rivals[index].is_promised]
    taken_until = max([begins, *promised])
    alone = taken_until + MARGIN * newcomer.least_alone_s

    def is_kept(deadline: float) -> bool:
        place = bisect_right(rivals, deadline, key=_deadline)
        groups = [*rivals[:place], newcomer, *rivals[place:]]
        row = newcomer.row()._replace(deadline=deadline)
        after = feasible_set(groups, columns.inserted(place, row), begins, tick_s=tick_s)
        return deadline >= alone and _harms_nobody(newcomer, groups, after, unharmed)

    wanted_is_kept = is_kept(newcomer.deadline)
    finish = max(alone, earliest_finish(newcomer, before, begins, tick_s=tick_s))
    for factor in _PUT_OFF:
        if is_kept(finish + _INSTANT_S):
            break
        finish = begins + factor * (finish - begins)
    return wanted_is_kept, min(finish, newcomer.deadline) if wanted_is_kept else finish


def _harms_nobody(
    newcomer: Group, groups: Sequence[Group], after: Feasible, unharmed: Collection[str]
) -> bool:
    """Whether `newcomer` is on time `after`, and nobody pays for it who must not."""
    for index in after.late:
        group = groups[index]
        stands_higher = group.is_promised or group.priority > newcomer.priority
        if group is newcomer or (stands_higher and group.id in unharmed):
            return False
    is_behind = False
    for index, slack in zip(after.on_time, after.slack.tolist(), strict=True):
        is_behind = is_behind or groups[index] is newcomer
        if is_behind and slack < 0 and groups[index].is_promised:
            return False
    return True
