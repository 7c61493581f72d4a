"""How many replicas a stage needs: a pure function of its load, and of what was wanted before.

The load is in *seconds of work*, those that one replica takes (`pipelines.batching.demand`): what
is queued, and how much comes per second. Replicas that are asked for now run only after the *lead*,
so the rule looks at the queue as it will be then:

    later  = queued + lead * (offered - running) - lead / 2 * starting        (seconds of work)
    wanted = max(offered / utilisation, offered + later / max(target wait, lead))

The first term keeps up with what comes; the second works the queue off within the target wait while
more comes, or within another lead: a replica should work for as long as it took to start. A burst
that the running replicas are done with before others could start asks for none. The lead is
measured: from asking for replicas to having them, new machines included.

Up, the least that was wanted all through the delay decides, and down the most: a load that flaps
keeps its replicas. Down goes by a lower utilisation than up. A stage that sleeps wakes without
delay: somebody waits for all of it.

The numbers are Serve's to give, in `policies.py`; here is no Ray and no clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

_NEWEST_LEAD = 0.5
_EPSILON = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingRule:
    """When a stage gets how many replicas; see `deployments.options.autoscaling` for the fields."""

    min_replicas: int
    max_replicas: int
    target_wait_s: float
    max_utilisation: float
    min_utilisation: float
    start_up_s: float
    upscale_delay_s: float
    downscale_delay_s: float
    downscale_to_zero_delay_s: float


class StageLoad(NamedTuple):
    """A stage at `now` seconds: `running` of `target` replicas, and seconds of work.

    `queued_s` is all that is not done, `offered` what comes per second; `is_used` says that
    somebody waits for the stage, be it for its first replica.
    """

    now: float
    running: int
    target: int
    queued_s: float
    offered: float
    is_used: bool


class Wanted(NamedTuple):
    """Replicas wanted at `at` seconds."""

    at: float
    replicas: int


class ScalingState(NamedTuple):
    """What a decision needs of those before it.

    `ups` and `downs` hold what was wanted during the delays: the least comes first in `ups`, the
    most in `downs`. `asked_at` is when replicas were asked for that do not all run yet, `lead_s`
    how long that has taken so far, `used_at` when somebody last waited for the stage.
    """

    ups: tuple[Wanted, ...]
    downs: tuple[Wanted, ...]
    used_at: float
    asked_at: float | None = None
    lead_s: float | None = None

    @classmethod
    def first(cls, load: StageLoad) -> ScalingState:
        """Before the first decision: what there is counts as wanted."""
        wanted = (Wanted(load.now, load.target),)
        return cls(wanted, wanted, used_at=load.now)


def wanted_replicas(load: StageLoad, rule: ScalingRule, lead_s: float) -> tuple[int, int]:
    """Replicas by the module's formula, for going up and for going down; the latter is no fewer."""
    starting = max(0, load.target - load.running)
    later = load.queued_s + lead_s * (load.offered - load.running) - lead_s / 2 * starting
    for_queue = max(0.0, later) / max(rule.target_wait_s, lead_s)
    least = max(load.offered + for_queue, float(load.is_used))
    up, down = (
        math.ceil(max(least, load.offered / utilisation) - _EPSILON)
        for utilisation in (rule.max_utilisation, rule.min_utilisation)
    )
    return up, down


def decide(
    load: StageLoad, rule: ScalingRule, state: ScalingState | None = None
) -> tuple[int, ScalingState]:
    """The replicas to have from now on, within the rule's bounds, and the next decision's state."""
    state = _followed(load, ScalingState.first(load) if state is None else state)
    lead_s = rule.start_up_s if state.lead_s is None else state.lead_s
    up, down = (_bounded(count, rule) for count in wanted_replicas(load, rule, lead_s))
    state = state._replace(
        ups=_least_first(state.ups, Wanted(load.now, up), rule.upscale_delay_s),
        downs=_most_first(state.downs, Wanted(load.now, down), rule.downscale_delay_s),
        used_at=load.now if load.is_used else state.used_at,
    )
    target = _bounded(load.target, rule)
    if target == 0:
        target = min(up, 1)
    if (least := state.ups[0].replicas) > target:
        target = least
    elif (most := _most(load, rule, state)) < target:
        target = most
    if target > load.target and state.asked_at is None:
        state = state._replace(asked_at=load.now)
    elif target < load.target:  # what was asked for may never run
        state = state._replace(asked_at=None)
    return target, state


def _most(load: StageLoad, rule: ScalingRule, state: ScalingState) -> int:
    """What to go down to. The last replica goes after a delay of its own."""
    if load.target <= 1 and state.downs[-1].replicas == 0:
        idle_s = load.now - state.used_at
        return 0 if idle_s >= rule.downscale_to_zero_delay_s - _EPSILON else load.target
    return max(state.downs[0].replicas, min(1, load.target))


def _followed(load: StageLoad, state: ScalingState) -> ScalingState:
    """Measure how long it takes from asking for replicas until all of them run."""
    if load.running < load.target:
        return state if state.asked_at is not None else state._replace(asked_at=load.now)
    if state.asked_at is None:
        return state
    took = load.now - state.asked_at
    before = took if state.lead_s is None else state.lead_s
    return state._replace(asked_at=None, lead_s=before + _NEWEST_LEAD * (took - before))


def _bounded(replicas: int, rule: ScalingRule) -> int:
    return min(max(replicas, rule.min_replicas), rule.max_replicas)


def _least_first(window: Sequence[Wanted], newest: Wanted, delay_s: float) -> tuple[Wanted, ...]:
    """The window with the newest, less those that can no longer be the least."""
    return _since([item for item in window if item.replicas < newest.replicas], newest, delay_s)


def _most_first(window: Sequence[Wanted], newest: Wanted, delay_s: float) -> tuple[Wanted, ...]:
    """The window with the newest, less those that can no longer be the most."""
    return _since([item for item in window if item.replicas > newest.replicas], newest, delay_s)


def _since(window: Sequence[Wanted], newest: Wanted, delay_s: float) -> tuple[Wanted, ...]:
    oldest = newest.at - delay_s + _EPSILON
    return (*(item for item in window if item.at > oldest), newest)
