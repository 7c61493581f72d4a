"""How many replicas a stage needs: a pure function of its load, and of what was wanted before.

The load is in *seconds of work*, those that one replica takes (`pipelines.batching.demand`): what
is queued, and how much comes per second. A replica that is asked for runs only after the *lead*,
so the rule looks at the queue as it will be then:

    later = queued + lead * (offered - running) - lead / 2 * starting         (seconds of work)
    up    = max(offered / max utilisation, offered + later / max(target wait, lead))
    down  = max(up, offered / min utilisation, offered + queued / max(target wait, item))

The first term of `up` keeps up with what comes; the second works the queue off within the target
wait while more comes, or within another lead: a replica should work for as long as it took to
start. A burst that the running replicas are done with before others could start asks for none. The
lead is measured: from asking for replicas to having them, new machines included.

Replicas that go are gone at once, so `down` looks at the queue as it is: those that stay work it
off within the target wait while more comes, or within the time of one item, as no number of
replicas is faster than that. Between `down` and `up`, the replicas stay as they are.

Up, the least that was wanted all through the delay decides, and down the most: a load that flaps
keeps its replicas. Replicas that have just come, which are those that Serve would take first, stay
for the longer of the lead and the target wait, and all others with them; those still starting may
be called off. What comes in place of a lost replica has not come in this sense, or where machines
are taken away all the time none would ever go. A stage that sleeps wakes without delay: somebody
waits for all of it.

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

    `queued_s` is all that is not done, `offered` what comes per second, `item_s` the work of one
    item, 0 where none is known; `is_used` says that somebody waits for the stage, be it for its
    first replica.
    """

    now: float
    running: int
    target: int
    queued_s: float
    offered: float
    is_used: bool
    item_s: float = 0.0


class Wanted(NamedTuple):
    """Replicas wanted at `at` seconds."""

    at: float
    replicas: int


class ScalingState(NamedTuple):
    """What a decision needs of those before it.

    `ups` and `downs` hold what was wanted during the delays: the least comes first in `ups`, the
    most in `downs`. `asked` are the targets that not all run for yet, in order, and `lead_s` how
    long it has taken so far until they did; `used_at` is when somebody last waited for the stage,
    `came_at` when replicas last came beyond the `most_running` that there had been.
    """

    ups: tuple[Wanted, ...]
    downs: tuple[Wanted, ...]
    used_at: float
    most_running: int
    came_at: float | None = None
    asked: tuple[Wanted, ...] = ()
    lead_s: float | None = None

    @classmethod
    def first(cls, load: StageLoad) -> ScalingState:
        """Before the first decision: what there is counts as wanted."""
        wanted = (Wanted(load.now, load.target),)
        return cls(wanted, wanted, used_at=load.now, most_running=load.running)


def wanted_replicas(load: StageLoad, rule: ScalingRule, lead_s: float) -> tuple[int, int]:
    """Replicas by the module's formula, for going up and for going down; the latter is no fewer."""
    starting = max(0, load.target - load.running)
    later = load.queued_s + lead_s * (load.offered - load.running) - lead_s / 2 * starting
    for_queue = max(0.0, later) / max(rule.target_wait_s, lead_s)
    up = max(load.offered + for_queue, float(load.is_used), load.offered / rule.max_utilisation)
    in_time = load.offered + load.queued_s / max(rule.target_wait_s, load.item_s)
    down = max(up, in_time, load.offered / rule.min_utilisation)
    return math.ceil(up - _EPSILON), math.ceil(down - _EPSILON)


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
    elif (most := _most(load, rule, state, lead_s)) < target:
        target = most
    if target > load.target:
        state = state._replace(asked=(*state.asked, Wanted(load.now, target)))
    return target, state


def _most(load: StageLoad, rule: ScalingRule, state: ScalingState, lead_s: float) -> int:
    """What to go down to. The last replica goes after a delay of its own."""
    stays_s = max(rule.target_wait_s, lead_s)
    have_just_come = state.came_at is not None and load.now - state.came_at < stays_s - _EPSILON
    if load.target <= 1 and state.downs[-1].replicas == 0:
        idle_s = load.now - state.used_at
        goes = idle_s >= rule.downscale_to_zero_delay_s - _EPSILON and not have_just_come
        return 0 if goes else load.target
    least = load.running if have_just_come else 0
    return max(state.downs[0].replicas, least, min(1, load.target))


def _followed(load: StageLoad, state: ScalingState) -> ScalingState:
    """See which replicas came, and how long those took that were asked for."""
    asked = _not_called_off(load, state.asked)
    if load.running < load.target and not asked:
        asked = (Wanted(load.now, load.target),)
    lead_s = state.lead_s
    while asked and asked[0].replicas <= load.running:
        took = load.now - asked[0].at
        lead_s = took if lead_s is None else lead_s + _NEWEST_LEAD * (took - lead_s)
        asked = asked[1:]
    return state._replace(
        most_running=max(load.running, min(state.most_running, load.target)),
        came_at=load.now if load.running > state.most_running else state.came_at,
        asked=asked,
        lead_s=lead_s,
    )


def _not_called_off(load: StageLoad, asked: tuple[Wanted, ...]) -> tuple[Wanted, ...]:
    """What is left of what was asked for: the newest is called off first."""
    whole = tuple(each for each in asked if each.replicas <= load.target)
    if len(whole) == len(asked) or load.running >= load.target:
        return whole
    last = whole[-1].replicas if whole else 0
    part = asked[len(whole)]._replace(replicas=load.target)
    return (*whole, part) if last < load.target else whole


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
