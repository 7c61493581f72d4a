"""A stage as a fluid: work flows in by a curve and out at one second per second and replica."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from deployments.scaling.rule import ScalingRule, ScalingState, StageLoad, decide

STEP_S = 0.5


Curve = Callable[[float], float]
"""Seconds of work that come per second, at a second."""


class Point(NamedTuple):
    """`wait_s` is how long what comes now waits if no replica is added."""

    at: float
    running: int
    target: int
    queued_s: float
    wait_s: float


@dataclass(slots=True)
class _Pool:
    start_s: float
    running: int
    starting: list[float]

    @property
    def target(self) -> int:
        return self.running + len(self.starting)

    def resize(self, target: int, now: float) -> None:
        while self.target < target:
            self.starting.append(now + self.start_s)
        while self.target > target and self.starting:
            self.starting.pop()
        self.running = min(self.running, target)

    def advance(self, now: float) -> None:
        self.running += sum(at <= now for at in self.starting)
        self.starting = [at for at in self.starting if at > now]


def run(
    curve: Curve, rule: ScalingRule, *, start_s: float, until: float, item_s: float = 0.0
) -> list[Point]:
    """The time line of a stage that begins with the rule's least replicas.

    `curve` gives the seconds of work that come per second; a replica runs `start_s` after it is
    asked for; `item_s` is what the rule is told of an item. From zero, the first request gets a
    replica at once, as Serve does it.
    """
    pool = _Pool(start_s, rule.min_replicas, [])
    state: ScalingState | None = None
    queued, points = 0.0, list[Point]()
    look_back_s = int(min(max(rule.start_up_s, 15.0), 60.0))
    for step in range(int(until / STEP_S)):
        now = step * STEP_S
        pool.advance(now)
        queued += STEP_S * curve(now)
        is_used = queued > 0
        queued = max(0.0, queued - STEP_S * pool.running)
        offered = sum(curve(max(0.0, now - back)) for back in range(look_back_s)) / look_back_s
        load = StageLoad(now, pool.running, pool.target, queued, offered, is_used, item_s)
        if pool.running == 0 and is_used:
            target = max(1, pool.target)
        else:
            target, state = decide(load, rule, state)
        pool.resize(target, now)
        wait_s = queued / pool.running if pool.running else float("inf") * is_used
        points.append(Point(now, pool.running, pool.target, queued, wait_s))
    return points


def replica_seconds(points: list[Point]) -> float:
    """What was paid for, starting replicas included."""
    return STEP_S * sum(point.target for point in points)


def changes(points: list[Point]) -> int:
    """How often the target changed."""
    return sum(before.target != after.target for before, after in itertools.pairwise(points))
