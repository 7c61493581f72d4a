"""A tick is filled: whose works step together."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pipelines.engine.costs.surface import EMPTY
from pipelines.engine.scheduling.group import MARGIN, Group
from pipelines.engine.scheduling.pricing import Pricing
from pipelines.engine.scheduling.residents import ResidentSet
from pipelines.engine.scheduling.work import Work

_GAP_TRIES = 32
"""Works that are tried for the gap at the end of a tick before it is left."""


def fill(
    groups: Iterable[Group], pricing: Pricing, residents: ResidentSet, now: float
) -> list[Work]:
    """Works in the given order, at least one: as many as bounds and knee allow, and as those that
    were promised a deadline can bear.

    A fuller tick is a longer one, and a request needs a tick for each of its steps: who comes
    behind a promised one joins its tick only where its deadline leaves the time.
    """
    surface = pricing.surface
    chosen: list[Work] = []
    load, longest_s, misses = EMPTY, surface.knee, 0
    for group in groups:
        for work in group:
            together = load.plus(work.load)
            if chosen and not (
                together.tokens <= pricing.max_tokens
                and surface.seconds(together) <= longest_s
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
    return chosen


def endangered(
    groups: Iterable[Group], chosen: Iterable[Work], seconds: float, now: float
) -> list[Group]:
    """Of `groups` those whose promise a tick of `chosen` works, `seconds` long, would break: who
    stands before them lengthens their ticks too."""
    stepped = {work.group for work in chosen}
    found: list[Group] = []
    for group in groups:
        if group.is_promised and group.depth:
            spare_s = group.deadline - now - max(group.cost, group.depth * group.tick_s)
            bearable_s = spare_s + (group.tick_s if group.id in stepped else 0.0)
            if spare_s >= 0 and seconds > bearable_s:
                found.append(group)
    return found


def _bearable_s(group: Group, now: float) -> float:
    """How long a tick may be for all of the group's deadline to be kept."""
    bearable_s = (group.deadline - now) / (MARGIN * group.depth)
    return bearable_s if bearable_s > 0 else math.inf
