"""What a stage's replicas do under load: single decisions, and recorded curves."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from random import Random

import pytest

from deployments.options.autoscaling import AutoscalingOptions
from deployments.scaling.rule import ScalingRule, ScalingState, StageLoad, decide, wanted_replicas
from tests.deployments.fluid import STEP_S, Curve, Point, changes, replica_seconds, run

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


HOUR_S = 90.0
"""An hour of the day is a minute and a half here, so that replicas start as slowly as on new
machines."""


def burst(t: float) -> float:
    return 6.0 if 30 <= t < 150 else 0.4


def hill(t: float) -> float:
    return 0.5 + 7.5 * max(0.0, 1 - abs(t / 600 - 1))


def flapping(t: float) -> float:
    return 2.8 if t % 20 < 10 else 0.2


def day(t: float) -> float:
    place = t / HOUR_S
    before, after = HOURS[int(place) % 24], HOURS[(int(place) + 1) % 24]
    return 2.0 * (before + (place % 1) * (after - before))


CURVES: dict[str, tuple[Curve, float]] = {
    "burst": (burst, 400.0),
    "ramp": (hill, 1200.0),
    "flapping": (flapping, 600.0),
    "day": (day, 24 * HOUR_S),
}
"""With the seconds that each lasts."""

every_curve = pytest.mark.parametrize("name", CURVES)
every_lead = pytest.mark.parametrize("lead_s", [10.0, 60.0, 300.0])


def went_down(name: str, lead_s: float) -> tuple[Curve, list[Point]]:
    """The curve with a long quiet time behind it, and what replicas did."""
    curve, lasts_s = CURVES[name]

    def then_quiet(t: float) -> float:
        return curve(t) if t < lasts_s else 0.4

    rule = replace(RULE, start_up_s=lead_s)
    return then_quiet, run(then_quiet, rule, start_s=lead_s, until=lasts_s + 4 * lead_s + 300)


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


@every_lead
def test_what_is_queued_keeps_the_replicas_that_work_it_off_in_time(lead_s: float) -> None:
    load = IDLE._replace(running=4, target=4, queued_s=200.0, is_used=True)
    assert wanted_replicas(load, RULE, lead_s)[1] == 200 / RULE.target_wait_s
    assert wanted_replicas(load._replace(offered=2.0), RULE, lead_s)[1] == 2 + 40
    assert wanted_replicas(load._replace(item_s=50.0), RULE, lead_s)[1] >= 200 / 50
    eager = replace(RULE, start_up_s=lead_s, downscale_delay_s=0.0, upscale_delay_s=1e9)
    assert decide(load, eager)[0] == 4
    assert decide(load._replace(queued_s=11.0), eager)[0] == 3
    assert decide(load._replace(queued_s=5.0), eager)[0] == 1


def test_the_second_of_two_is_not_taken_from_a_queue_that_one_would_be_long_with() -> None:
    """Two denoisers, the second for four seconds, and 17 s of work: as it was on a busy machine."""
    rule = replace(RULE, target_wait_s=0.5, start_up_s=1.0, downscale_delay_s=3.0, max_replicas=2)
    one = IDLE._replace(running=1, target=1, queued_s=30.0, offered=1.0, is_used=True)
    target, state = decide(one, replace(rule, upscale_delay_s=0.0))
    assert target == 2
    for second in range(1, 21):
        running = 1 if second < 16 else 2
        queued_s = 30.0 - second * running + 1.0 * (second < 16) * second
        load = StageLoad(float(second), running, 2, max(queued_s, 17.0), 0.0, is_used=True)
        target, state = decide(load, rule, state)
        assert target == 2


def test_replicas_that_have_just_come_stay_as_long_as_they_took_to_come() -> None:
    rule = replace(RULE, upscale_delay_s=0.0, downscale_delay_s=0.0, start_up_s=5.0)
    target, state = decide(IDLE._replace(offered=3.0, is_used=True), rule)
    assert target == 4
    came = IDLE._replace(target=4, running=4)
    for now in (30.0, 45.0, 59.5):
        target, state = decide(came._replace(now=now), rule, state)
        assert target == 4
    assert decide(came._replace(now=60.0), rule, state)[0] == 1


def test_replicas_still_starting_are_called_off_while_those_that_came_stay() -> None:
    rule = replace(RULE, upscale_delay_s=0.0, downscale_delay_s=0.0)
    target, state = decide(IDLE._replace(offered=3.0, is_used=True), rule)
    assert target == 4
    target, state = decide(IDLE._replace(now=20.0, running=3, target=4), rule, state)
    assert target == 3
    assert decide(IDLE._replace(now=21.0, running=3, target=3), rule, state)[0] == 3


def test_what_comes_for_a_lost_replica_keeps_no_others() -> None:
    """Or a fleet on machines that are often taken away would never get smaller."""
    rule = replace(RULE, downscale_delay_s=30.0)
    _, state = decide(IDLE._replace(running=8, target=8), rule)
    for now in range(1, 30):
        lost = IDLE._replace(now=float(now), running=8 - now % 2, target=8)
        target, state = decide(lost, rule, state)
        assert target == 8
    assert decide(IDLE._replace(now=30.0, running=8, target=8), rule, state)[0] == 1


def test_a_replica_that_comes_after_its_only_caller_left_stays_a_while_too() -> None:
    rule = replace(RULE, min_replicas=0, downscale_to_zero_delay_s=10.0)
    _, state = decide(IDLE._replace(running=0, target=1, is_used=True), rule)
    for now in (5.0, 25.0, 44.0):
        running = int(now >= 25)
        load = IDLE._replace(now=now, running=running, target=1)
        target, state = decide(load, rule, state)
        assert target == 1
    assert state.lead_s == 25.0
    assert decide(IDLE._replace(now=50.0, running=1, target=1), rule, state)[0] == 0


@every_lead
@every_curve
def test_those_left_work_the_queue_off_within_the_target_wait(name: str, lead_s: float) -> None:
    curve, points = went_down(name, lead_s)
    downs = [after for before, after in itertools.pairwise(points) if after.target < before.target]
    assert downs
    for point in downs:
        spare = point.target - curve(point.at)
        assert point.queued_s <= RULE.target_wait_s * spare


@every_lead
@every_curve
def test_no_replica_goes_that_has_just_come(name: str, lead_s: float) -> None:
    _, points = went_down(name, lead_s)
    came_at = -math.inf
    for before, after in itertools.pairwise(points):
        if after.running > before.running:
            came_at = after.at
        if after.target < before.running:
            assert after.at - came_at >= lead_s


@every_lead
@every_curve
def test_what_is_no_longer_needed_goes_in_the_end(name: str, lead_s: float) -> None:
    _, points = went_down(name, lead_s)
    assert max(point.target for point in points) > 2
    assert points[-1].target == 1


def test_items_longer_than_the_target_wait_keep_no_more_than_they_need() -> None:
    """One of 20 s comes every 20 s to one replica in the mean, yet never evenly."""
    item_s = 20.0
    random = Random(5)
    comes = {int(random.uniform(0, 6000) / STEP_S) for _ in range(300)}

    def items(t: float) -> float:
        return (item_s if int(t / STEP_S) in comes else 0.0) / STEP_S

    def crowd(t: float) -> float:
        return 8.0 if t < 300 else items(t)

    rule = replace(RULE, downscale_delay_s=120.0)
    points = run(crowd, rule, start_s=20.0, until=6000, item_s=item_s)
    assert max(point.target for point in points if point.at < 500) > 8
    settled = [point.target for point in points if point.at > 1000]
    assert min(settled) <= 3
    assert sum(settled) / len(settled) < 6


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


def test_the_lead_of_a_growing_stage_is_that_of_each_growth() -> None:
    rule = replace(RULE, upscale_delay_s=0.0)
    state = None
    for now in range(0, 60, 10):  # asks for another every 10 s, and has each after 20
        running = 2 + max(0, now // 10 - 1)
        load = IDLE._replace(now=float(now), running=running, target=2 + now // 10, is_used=True)
        offered = 0.8 * (load.target + 1)
        target, state = decide(load._replace(offered=offered), rule, state)
        assert target == load.target + 1
    assert state is not None
    assert state.lead_s == 20.0


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
    points = run(day, RULE, start_s=20.0, until=24 * HOUR_S)[int(HOUR_S / STEP_S) :]
    peak = max(point.target for point in points)
    assert peak >= 8
    assert replica_seconds(points) < 0.6 * peak * len(points) * STEP_S
    late = sum(point.wait_s > RULE.target_wait_s for point in points) / len(points)
    assert late < 0.02
    assert at(points, 11 * HOUR_S).target == 1


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
