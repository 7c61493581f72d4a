"""A tick is filled: whose works step together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from operator import attrgetter

from pipelines.engine.costs.surface import EMPTY
from pipelines.engine.scheduling.group import MARGIN, Group
from pipelines.engine.scheduling.pricing import Pricing
from pipelines.engine.scheduling.residents import ResidentSet
from pipelines.engine.scheduling.work import Work, load_of

_GAP_TRIES = 32
"""Works that are tried for the gap at the end of a tick before it is left."""

_deadline: Callable[[Group], float] = attrgetter("deadline")


def fill(
    groups: Iterable[Group],
    pricing: Pricing,
    residents: ResidentSet,
    now: float,
    *,
    urgent: Sequence[Group] = (),
) -> list[Work]:
    """Works in the given order, at least one: as many as bounds and knee allow, and as those that
    were promised a deadline can bear.

    A fuller tick is a longer one, and a request needs a tick for each of its steps: who comes
    behind a promised one joins its tick only where its deadline leaves the time. Those that are
    `urgent` go before all others, and may spend each other's margin.
    """
    surface = pricing.surface
    chosen: list[Work] = []
    load, misses = EMPTY, 0
    longest_s = urgent_longest_s = surface.knee
    rest = (group for group in groups if group not in urgent) if urgent else groups
    for group in chain(urgent, rest):
        at_most_s = urgent_longest_s if group in urgent else longest_s
        for work in group:
            together = load.plus(work.load)
            if chosen and not (
                together.tokens <= pricing.max_tokens
                and surface.seconds(together) <= at_most_s
                and residents.has_room([*chosen, work])
            ):
                misses += 1
                if misses > _GAP_TRIES:
                    return chosen
                continue
            chosen.append(work)
            load = together
            if len(chosen) == pricing.max_works:
                return chosen
        if group.is_promised and group.depth:
            longest_s = min(longest_s, _bearable_s(group, now))
            if group in urgent:
                urgent_longest_s = min(urgent_longest_s, _spare_s(group, now) + group.tick_s)
    return chosen


def give_way(
    groups: Sequence[Group],
    chosen: list[Work],
    pricing: Pricing,
    residents: ResidentSet,
    now: float,
) -> list[Work]:
    """`chosen`, or works whose tick breaks fewer promises of `groups`: who stands before a promised
    one lengthens its ticks too.

    Those that a tick would break go first in the next try, together with those that they would
    break by it, until a tick breaks no others.
    """
    spares = [
        (group, _spare_s(group, now)) for group in groups if group.is_promised and group.depth
    ]
    spares = [(group, spare_s) for group, spare_s in spares if spare_s >= 0]

    def broken_by(works: Sequence[Work]) -> list[Group]:
        seconds = pricing.surface.seconds(load_of(works))
        stepped = {work.group for work in works}
        return [
            group
            for group, spare_s in spares
            if seconds > spare_s + (group.tick_s if group.id in stepped else 0.0)
        ]

    best, broken = chosen, broken_by(chosen)
    fewest = len(broken)
    urgent: list[Group] = []
    while found := [group for group in broken if group not in urgent]:
        urgent = sorted([*urgent, *found], key=_deadline)
        chosen = fill(groups, pricing, residents, now, urgent=urgent)
        broken = broken_by(chosen)
        if len(broken) < fewest:
            best, fewest = chosen, len(broken)
    return best


def _spare_s(group: Group, now: float) -> float:
    """How long all of the group can wait for its deadline to be kept, its margin used up."""
    return group.deadline - now - max(group.cost, group.depth * group.tick_s)


def _bearable_s(group: Group, now: float) -> float:
    """How long a tick may be for all of the group's deadline to be kept."""
    bearable_s = (group.deadline - now) / (MARGIN * group.depth)
    return bearable_s if bearable_s > 0 else math.inf
