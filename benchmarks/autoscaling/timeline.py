"""How replicas and machines followed a load: samples over time, and what they add up to. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple


class Sample(NamedTuple):
    """At `at_s` seconds: work that is sent and not done (seconds of one replica), denoisers that
    run, those that start or stop, and machines."""

    at_s: float
    queued_s: float
    running: int
    changing: int
    machines: int

    @property
    def replicas(self) -> int:
        """All that hold a GPU, or wait for one."""
        return self.running + self.changing


class Fate(NamedTuple):
    """A request that was sent at `sent_s`: whether all of it came, and in time."""

    sent_s: float
    latency_s: float
    is_ok: bool
    is_met: bool


def replica_seconds(samples: Sequence[Sample]) -> float:
    """Seconds of replicas, those that start and stop among them."""
    return _area(samples, [sample.replicas for sample in samples])


def machine_seconds(samples: Sequence[Sample]) -> float:
    """Seconds of machines, which is what they cost."""
    return _area(samples, [sample.machines for sample in samples])


def met(fates: Sequence[Fate]) -> float:
    """The share of requests that were in time; of at least one."""
    return sum(fate.is_met for fate in fates) / len(fates)


def met_over_time(
    fates: Sequence[Fate], *, window_s: float, until_s: float
) -> list[tuple[float, float]]:
    """By window: its middle, and the share met of the requests sent in it. Windows without any are
    left out."""
    points: list[tuple[float, float]] = []
    for number in range(int(until_s // window_s) + 1):
        start_s = number * window_s
        sent = [fate for fate in fates if start_s <= fate.sent_s < start_s + window_s]
        if sent:
            points.append((start_s + window_s / 2, met(sent)))
    return points


def every(samples: Sequence[Sample], seconds: float) -> list[Sample]:
    """The last sample of each `seconds`, for a table."""
    by_slot = {int(sample.at_s // seconds): sample for sample in samples}
    return list(by_slot.values())


def _area(samples: Sequence[Sample], values: Sequence[int]) -> float:
    """Each value holds until the next sample."""
    gaps = (after.at_s - before.at_s for before, after in itertools.pairwise(samples))
    return sum(value * gap for value, gap in zip(values, gaps, strict=False))
