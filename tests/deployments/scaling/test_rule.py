"""What a stage's replicas do under load: single decisions, and recorded curves."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from deployments.options.autoscaling import AutoscalingOptions
from deployments.scaling.rule import ScalingRule, ScalingState, StageLoad, decide, wanted_replicas
from tests.deployments.fluid import STEP_S, Point, changes, replica_seconds, run

RULE = ScalingRule(
    min_replicas=1,
    max_replicas=16,
    target_wait_s=5.0,
    max_utilisation=0.8,
    min_utilisation=0.6,
    start_up_s=20.0,
    upscale_delay_s=2.0,
    downscale_delay_s=60.0,
    downscale_to_zero_delay_s=60.0,
)
IDLE = StageLoad(now=0.0, running=2, target=2, queued_s=0.0, offered=0.0, is_used=False)

HOURS = (3.39, 1.11, 0.52, 0.59, 0.56, 0.4, 0.51, 0.55, 0.15, 0.12, 0.04, 0.0)
HOURS += (0.0, 0.0, 0.0, 0.03, 0.55, 1.77, 2.66, 0.5, 0.94, 3.29, 3.08, 3.24)
"""Steps of images asked for in each hour of the day, over their mean: 16 days of GenTD26."""


def at(points: list[Point], second: float) -> Point:
    return points[int(second / STEP_S)]


def test_replicas_keep_up_with_what_comes_at_their_utilisation() -> None:
    assert wanted_replicas(IDLE._replace(offered=2.4, is_used=True), RULE, 0.0) == (3, 4)
    assert wanted_replicas(IDLE._replace(offered=1.6, is_used=True), RULE, 0.0) == (2, 3)


def test_a_queue_that_is_gone_before_a_replica_could_start_asks_for_none() -> None:
    load = IDLE._replace(queued_s=39.0, is_used=True)
    assert wanted_replicas(load, RULE, 20.0)[0] == 1
    assert wanted_replicas(load, RULE, 2.0)[0] == math.ceil((39 - 2 * 2) / 5)


def test_a_queue_that_stays_is_worked_off_within_the_target_wait_while_more_comes() -> None:
    load = IDLE._replace(queued_s=60.0, offered=3.0, is_used=True)
    later = 60 + 20 * (3 - 2)
    assert wanted_replicas(load, RULE, 20.0)[0] == math.ceil(3 + later / 20)
    assert wanted_replicas(load, RULE, 1.0)[0] == math.ceil(3 + (60 + 1) / 5)


def test_replicas_that_are_starting_are_counted_on() -> None:
    load = IDLE._replace(queued_s=60.0, offered=3.0, is_used=True)
    later = 60 + 20 * (3 - 2) - 20 / 2 * 4
    assert wanted_replicas(load._replace(target=6), RULE, 20.0)[0] == math.ceil(3 + later / 20)


def test_somebody_who_waits_gets_one_replica_whatever_is_known_of_the_work() -> None:
    assert wanted_replicas(IDLE, RULE, 20.0) == (0, 0)
    assert wanted_replicas(IDLE._replace(is_used=True), RULE, 20.0) == (1, 1)


def test_bounds_hold_whatever_is_wanted() -> None:
    rule = replace(RULE, upscale_delay_s=0.0, downscale_delay_s=0.0)
    flooded = IDLE._replace(queued_s=1e6, offered=50.0, is_used=True)
    assert decide(flooded, rule)[0] == 16
    _, state = decide(IDLE, rule)
    assert decide(IDLE._replace(now=1.0), rule, state)[0] == 1
    assert decide(IDLE._replace(target=40, running=40), RULE)[0] == 16


def test_the_lead_is_measured_from_asking_to_having() -> None:
    rule = replace(RULE, upscale_delay_s=0.0)
    busy = IDLE._replace(offered=2.6, is_used=True)
    target, state = decide(busy, rule)
    assert target == 4
    assert state.lead_s is None
    _, state = decide(busy._replace(now=30.0, target=4), rule, state)
    assert state.lead_s is None
    _, state = decide(busy._replace(now=50.0, target=4, running=4), rule, state)
    assert state.lead_s == 50.0
    target, state = decide(busy._replace(now=60.0, target=4, running=4, offered=4.0), rule, state)
    assert target == 5
    _, state = decide(busy._replace(now=90.0, target=5, running=5, offered=4.0), rule, state)
    assert state.lead_s == 40.0  # between 50 s and 30 s


def test_a_start_that_is_called_off_teaches_no_lead() -> None:
    rule = replace(RULE, upscale_delay_s=0.0, downscale_delay_s=0.0)
    _, state = decide(IDLE._replace(offered=3.0, is_used=True), rule)
    target, state = decide(IDLE._replace(now=5.0, target=4), rule, state)
    assert target == 1
    _, state = decide(IDLE._replace(now=6.0, target=1, running=1), rule, state)
    assert state.lead_s is None


def test_a_short_burst_is_left_to_the_replicas_there_are() -> None:
    rule = replace(RULE, min_replicas=2)
    points = run(lambda t: 3.5 if 20 <= t < 26 else 0.6, rule, start_s=20.0, until=120)
    assert max(point.wait_s for point in points) > 4
    assert {point.target for point in points} == {2}


def test_a_long_burst_is_met_and_its_replicas_leave_again() -> None:
    def burst(t: float) -> float:
        return 6.0 if 30 <= t < 150 else 0.4

    points = run(burst, RULE, start_s=20.0, until=400)
    asked = next(point for point in points if point.target > 1)
    assert asked.at < 45
    assert (
        max(point.wait_s for point in points if point.at > asked.at + 3 * 20) < RULE.target_wait_s
    )
    assert at(points, 150).running >= 8
    assert at(points, 399).target == 1
    # Not before the delay, and not long after it.
    assert at(points, 200).target >= 8
    assert next(p.at for p in points if p.at > 150 and p.target == 1) < 150 + 20 + 60 + 5


def test_a_ramp_is_followed_without_a_wait() -> None:
    points = run(lambda t: 0.5 + 7.5 * t / 600, RULE, start_s=20.0, until=600)
    assert max(point.wait_s for point in points) < RULE.target_wait_s
    assert [b.target - a.target for a, b in itertools.pairwise(points)].count(-1) == 0
    assert at(points, 599).target == pytest.approx(8 / 0.8, abs=2)


def test_a_flapping_load_keeps_its_replicas() -> None:
    def flapping(t: float) -> float:
        return 2.8 if t % 20 < 10 else 0.2

    settled = run(flapping, RULE, start_s=5.0, until=600)[int(120 / STEP_S) :]
    assert changes(settled) == 0
    eager = replace(RULE, downscale_delay_s=0.0, upscale_delay_s=0.0, min_utilisation=0.8)
    assert changes(run(flapping, eager, start_s=5.0, until=600)) > 20


def test_a_load_between_the_two_utilisations_changes_nothing() -> None:
    def wobbling(t: float) -> float:
        return 2.1 + 0.25 * math.sin(t / 7)  # of three replicas, 62 to 78 %

    rule = replace(RULE, min_replicas=3, downscale_delay_s=0.0, upscale_delay_s=0.0)
    assert changes(run(wobbling, rule, start_s=5.0, until=600)) == 0


def test_a_day_of_the_trace_costs_less_than_its_peak_and_waits_little() -> None:
    """An hour is a minute and a half here, so that replicas start as slowly as on new machines."""
    hour_s = 90.0

    def day(t: float) -> float:
        place = t / hour_s
        before, after = HOURS[int(place) % 24], HOURS[(int(place) + 1) % 24]
        return 2.0 * (before + (place % 1) * (after - before))

    points = run(day, RULE, start_s=20.0, until=24 * hour_s)[int(hour_s / STEP_S) :]
    peak = max(point.target for point in points)
    assert peak >= 8
    assert replica_seconds(points) < 0.6 * peak * len(points) * STEP_S
    late = sum(point.wait_s > RULE.target_wait_s for point in points) / len(points)
    assert late < 0.02
    assert at(points, 11 * hour_s).target == 1


def test_a_stage_that_sleeps_wakes_without_delay_and_grows_with_it() -> None:
    rule = replace(RULE, min_replicas=0, upscale_delay_s=10.0)
    asleep = IDLE._replace(running=0, target=0)
    target, state = decide(asleep, rule)
    assert target == 0
    burst = asleep._replace(now=1.0, queued_s=400.0, is_used=True)
    target, state = decide(burst, rule, state)
    assert target == 1
    target, state = decide(burst._replace(now=2.0, target=1), rule, state)
    assert target == 1
    assert decide(burst._replace(now=12.0, target=1), rule, state)[0] > 1


def test_a_stage_may_sleep_and_is_woken_by_the_first_request() -> None:
    rule = replace(RULE, min_replicas=0, downscale_to_zero_delay_s=30.0)
    points = run(lambda t: 2.0 if 100 <= t < 102 else 0.0, rule, start_s=20.0, until=300)
    assert at(points, 99).target == 0
    assert at(points, 100).target == 1
    assert at(points, 130).queued_s == 0
    woken = [point for point in points if point.target]
    assert woken[-1].at == pytest.approx(100 + 20 + 4 + 30, abs=3)
    assert at(points, 299).target == 0


def test_the_last_replica_stays_for_its_own_delay_only() -> None:
    rule = replace(RULE, min_replicas=0, downscale_delay_s=100.0, downscale_to_zero_delay_s=10.0)
    one = IDLE._replace(running=1, target=1)
    _, state = decide(one, rule)
    for now in (5.0, 9.0):
        target, state = decide(one._replace(now=now), rule, state)
        assert target == 1
    _, state = decide(one._replace(now=9.5, is_used=True), rule, state)
    assert decide(one._replace(now=15.0), rule, state)[0] == 1


def test_the_rule_is_what_the_options_say() -> None:
    options = AutoscalingOptions(max_replicas=4, initial_replicas=2, downscale_delay_s=120)
    rule = ScalingRule(**options.rule())
    assert (rule.min_replicas, rule.max_replicas) == (1, 4)
    assert rule.downscale_to_zero_delay_s == 120
    config = options.serve_config()
    assert (config["initial_replicas"], config["upscale_delay_s"]) == (2, 0.0)
    assert config["metrics_interval_s"] == 1.0  # or callers are heard after 10 s, and wake nobody
    assert ScalingState.first(IDLE).used_at == IDLE.now
