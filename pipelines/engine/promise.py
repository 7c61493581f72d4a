"""What admission is told about a deadline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pipelines.engine.feasible import earliest_finish, feasible_set
from pipelines.engine.group import Group
from pipelines.engine.table import Table


class Promise(NamedTuple):
    """Whether a work's deadline can be kept, with every promise that was made before.

    `earliest_s` is the shortest deadline that could be promised now, in seconds from now; `alone_s`
    is what the work's request needs on an idle engine.
    """

    is_kept: bool
    earliest_s: float
    alone_s: float


def alone_s(newcomer: Group) -> float:
    """Seconds that a request needs on an idle engine, with its fewest steps."""
    return max(newcomer.least_cost, newcomer.least_depth * newcomer.tick_s)


def promise_feasible(
    newcomer: Group, groups: Sequence[Group], table: Table, begins: float, *, tick_s: float
) -> tuple[bool, float]:
    """(whether its deadline can be kept, when it can be done at the earliest) under `edf`.

    `groups`, by deadline, are those that `newcomer` competes with, itself included, from the time
    `begins` on. Promises made before are kept, and so is the margin that is left of them; nobody
    with a higher priority becomes late for it.
    """
    rivals = [group for group in groups if group is not newcomer]
    before = feasible_set(rivals, table.columns(rivals), begins, tick_s=tick_s)
    after = feasible_set(groups, table.columns(groups), begins, tick_s=tick_s)
    late_before = {rivals[index].id for index in before.late}
    harmed = [
        group
        for group in (groups[index] for index in after.late)
        if (group.is_promised or group.priority > newcomer.priority) and group.id not in late_before
    ]
    on_time = [groups[index] for index in after.on_time]
    is_kept = not harmed and newcomer in on_time
    if is_kept:
        behind = slice(on_time.index(newcomer), None)
        is_kept = all(
            slack >= 0 or not group.is_promised
            for group, slack in zip(on_time[behind], after.slack[behind].tolist(), strict=True)
        )
    return is_kept, earliest_finish(newcomer, before, begins, tick_s=tick_s)
