"""Scaling, as Serve's controller calls it: from what replicas report to a stage's load, and back.

`WorkPolicy` scales one deployment. `PoolsPolicy` scales an application, and keeps the ratio of its
pools right: those behind the denoiser get ready for what it is about to give them, and it does not
grow past what they can take. Serve takes the latter from a configuration file only.

Runs on the controller, which may lack torch and the application's settings: imports neither, and a
rule comes with its deployment's own autoscaling configuration.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, cast

from deployments.names import StageName
from deployments.scaling.rule import ScalingRule, ScalingState, StageLoad, decide
from deployments.stage_table import STAGES

QUEUED_S, BUSY_S, DONE = "queued_s", "busy_s", "done"
"""What replicas report; see `pipelines.batching.demand.Demand`."""
TARGET_WAIT_S = "target_wait_s"
"""What they report besides; see `deployments.options.autoscaling.reported_targets`."""

DENOISER = str(StageName.DENOISER)
BEHIND_DENOISER = tuple(row.name for row in STAGES if row.place == "after_latents")

_STATE, _ITEM = "scaling", "item_s"

State = dict[str, Any]


class Sample(Protocol):
    """A value that a replica reported, and when."""

    timestamp: float
    value: float


Series = Mapping[Any, Sequence[Sample]]
"""What one name was worth, by replica."""


class Context(Protocol):
    """What is used of `ray.serve.config.AutoscalingContext`."""

    deployment_name: str
    policy_state: State
    current_time: float | None

    @property
    def config(self) -> Any: ...
    @property
    def current_num_replicas(self) -> int: ...
    @property
    def target_num_replicas(self) -> int: ...
    @property
    def raw_metrics(self) -> Mapping[str, Series] | None: ...
    @property
    def total_num_requests(self) -> float: ...
    @property
    def total_queued_requests(self) -> float: ...


class Pace(NamedTuple):
    """A stage's load, and the seconds of one replica that one of its items takes."""

    load: StageLoad
    item_s: float


class WorkPolicy:
    """Replicas of one deployment, by its own work."""

    def __init__(self, **rule: float) -> None:
        self._rule = ScalingRule(**cast(Any, rule))

    def __call__(self, context: Context) -> tuple[int, State]:
        """As Serve asks of a policy: the replicas wanted, and the state to be called with next."""
        return _decided(context, read_pace(context), _in_force(self._rule, context))


class PoolsPolicy:
    """Replicas of all deployments of an application that have a `WorkPolicy`.

    Those that scale by requests, such as the ingress, go on doing so.
    """

    def __call__(self, contexts: Mapping[Any, Context]) -> tuple[dict[Any, int], dict[Any, State]]:
        """As Serve asks of an application's policy."""
        keys = {context.deployment_name: key for key, context in contexts.items()}
        rules = {
            name: _in_force(ScalingRule(**contexts[key].config.policy.policy_kwargs), contexts[key])
            for name, key in keys.items()
            if contexts[key].config.policy.policy_kwargs
        }
        paces = {name: read_pace(contexts[keys[name]]) for name in rules}
        replicas: dict[Any, int] = {}
        states: dict[Any, State] = {}
        if denoiser := paces.get(DENOISER):
            behind = {name: paces[name] for name in BEHIND_DENOISER if name in paces}
            rules[DENOISER] = capped(rules[DENOISER], denoiser, behind, rules)
        for name in sorted(rules, key=lambda name: name != DENOISER):  # it decides what comes next
            pace = paces[name]
            if name in BEHIND_DENOISER and (key := keys.get(DENOISER)) in replicas:
                pace = pace._replace(load=fed(pace, paces[DENOISER], denoisers=replicas[key]))
            replicas[keys[name]], states[keys[name]] = _decided(
                contexts[keys[name]], pace, rules[name]
            )
        for key, context in contexts.items():
            if key not in replicas:
                replicas[key] = _by_requests(context)
        return replicas, states


def fed(stage: Pace, denoiser: Pace, *, denoisers: int) -> StageLoad:
    """The load of a stage behind the denoiser, counting what so many denoisers will send it."""
    if not denoiser.item_s:
        return stage.load
    images_per_s = min(denoiser.load.offered, denoisers) / denoiser.item_s
    return stage.load._replace(offered=max(stage.load.offered, images_per_s * stage.item_s))


def capped(
    rule: ScalingRule,
    denoiser: Pace,
    behind: Mapping[str, Pace],
    rules: Mapping[str, ScalingRule],
) -> ScalingRule:
    """The denoiser's rule, without the growth that stages behind it could not keep up with.

    A stage limits it that cannot grow, and has more queued than its target wait. What there is of
    denoisers goes by their own rule.
    """
    most = rule.max_replicas
    for name, (load, item_s) in behind.items():
        own = rules[name]
        is_behind = load.queued_s > own.target_wait_s * load.running
        if is_behind and load.running >= own.max_replicas and item_s and denoiser.item_s:
            images_per_s = own.max_replicas / item_s
            most = min(most, math.ceil(images_per_s * denoiser.item_s / rule.max_utilisation))
    most = min(max(most, denoiser.load.target, 1), rule.max_replicas)
    return replace(rule, max_replicas=max(most, rule.min_replicas))


def read_pace(context: Context) -> Pace:
    """What the replicas of a deployment reported, as one load.

    An item takes what it took the last ones, be it replicas that are gone.
    """
    queued, busy = _reported(context, QUEUED_S), _reported(context, BUSY_S)
    done = _latest(_reported(context, DONE))
    item_s = _latest(busy) / done if done else float(context.policy_state.get(_ITEM, 0.0))
    queued_s = _latest(queued) + context.total_queued_requests * item_s
    # Less than nothing came where works were cancelled. What went elsewhere came there.
    offered = max(0.0, sum(_growth(queued[each], busy.get(each, ())) for each in queued))
    assert context.current_time is not None
    load = StageLoad(
        now=context.current_time,
        running=context.current_num_replicas,
        target=context.target_num_replicas,
        queued_s=queued_s,
        offered=offered,
        is_used=context.total_num_requests > 0 or queued_s > 0 or offered > 0,
        item_s=item_s,
    )
    return Pace(load, item_s)


def _decided(context: Context, pace: Pace, rule: ScalingRule) -> tuple[int, State]:
    before: ScalingState | None = context.policy_state.get(_STATE)
    target, state = decide(pace.load, rule, before)
    return target, {_STATE: state, _ITEM: pace.item_s}


def _by_requests(context: Context) -> int:
    return math.ceil(context.total_num_requests / context.config.get_target_ongoing_requests())


def _latest(series: Series) -> float:
    return sum(samples[-1].value for samples in series.values() if samples)


def _growth(queued: Sequence[Sample], busy: Sequence[Sample]) -> float:
    """Seconds of work that came per second to one replica, while both were reported."""
    pairs = list(zip(queued, busy, strict=False))
    if len(pairs) < 2:
        return 0.0
    elapsed = pairs[-1][0].timestamp - pairs[0][0].timestamp
    totals = [first.value + second.value for first, second in (pairs[0], pairs[-1])]
    return (totals[1] - totals[0]) / elapsed if elapsed > 0 else 0.0


def _in_force(rule: ScalingRule, context: Context) -> ScalingRule:
    """The rule with what of it changes in place: Serve's bounds, and the wait as last reported."""
    reports = [samples[-1] for samples in _reported(context, TARGET_WAIT_S).values() if samples]
    newest = max(reports, key=lambda sample: sample.timestamp, default=None)
    return replace(
        rule,
        min_replicas=context.config.min_replicas,
        max_replicas=context.config.max_replicas,
        target_wait_s=rule.target_wait_s if newest is None else newest.value,
    )


def _reported(context: Context, name: str) -> Series:
    return (context.raw_metrics or {}).get(name, {})
