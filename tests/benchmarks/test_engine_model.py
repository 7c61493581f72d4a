"""The simulated engine's numbers come from the right measurements."""

from __future__ import annotations

import pytest

from benchmarks.engine_model import calibrate, engine_times, pace_of, stretched
from benchmarks.live import Call
from pipelines.engine.costs.surface import CostSurface, Load, Observation

SURFACE = CostSurface(base=0.004, per_token=5e-5, per_square=1e-8, per_segment=1e-3)
LOADS = [Load.of([length] * count) for length in (32, 80, 160, 272) for count in (1, 2, 4, 8)]


def test_half_of_the_points_are_fitted_and_the_others_judge() -> None:
    points = [Observation(load, SURFACE.seconds(load)) for load in LOADS]
    result = calibrate(points)
    assert len(result.fitted) == result.held_out == 8
    assert result.error.worst == pytest.approx(0.0, abs=1e-6)
    slower = [
        Observation(load, seconds * (1.0 if index % 2 == 0 else 1.25))
        for index, (load, seconds) in enumerate(points)
    ]
    error = calibrate(slower).error
    assert error.median == pytest.approx(0.2, abs=1e-6)
    assert error.worst == pytest.approx(0.2, abs=1e-6)


def test_what_is_beside_the_ticks_is_told_apart() -> None:
    load = LOADS[0]
    tick_s = 1.5 * SURFACE.seconds(load)
    calls: list[Call] = []
    now = 0.0

    def call(name: str, seconds: float, gap: float) -> None:
        nonlocal now
        now += gap
        calls.append(Call(name, now, now + seconds, load))  # type: ignore[arg-type]
        now += seconds

    for start in (0.0, 7.0):  # the seven seconds in between are a wait for an arrival
        call("admit", 0.008, start)
        call("tick", tick_s, 0.0005)
        call("checkpoint", 0.0002, 0.0001)
        call("tick", tick_s, 0.0008)
        call("finish", 0.0003, 0.0002)
    times = engine_times(calls, SURFACE)
    assert times.stretch == pytest.approx(1.5)
    assert times.overheads.per_tick == pytest.approx((0.0005 + 0.0001 + 0.0008 + 0.0002) / 2)
    assert times.overheads.per_admission == pytest.approx(0.008)
    assert times.overheads.per_checkpoint == pytest.approx(0.0002)
    assert times.overheads.per_finish == pytest.approx(0.0003)


def test_a_run_that_shows_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="too short"):
        engine_times([Call("admit", 0.0, 1.0)], SURFACE)


def test_stretched_points_are_slower_by_the_same_factor() -> None:
    points = [Observation(load, SURFACE.seconds(load)) for load in LOADS]
    slow = calibrate(stretched(points, 2.0)).surface
    for load in LOADS:
        assert slow.seconds(load) == pytest.approx(2 * SURFACE.seconds(load))


def test_the_pace_of_each_second_is_told_by_its_ticks() -> None:
    small, large = LOADS[0], LOADS[-1]

    def tick(at_s: float, load: Load, factor: float) -> Call:
        return Call("tick", 100 + at_s, 100 + at_s + factor * SURFACE.seconds(load), load)

    calls = [
        Call("admit", 100.0, 101.0),
        tick(1.1, small, 1.2),
        tick(1.5, large, 1.2),
        tick(3.2, large, 0.9),
        tick(3.9, large, 1.1),
    ]
    pace = pace_of(calls, SURFACE, began=100.0)
    assert [pace.at(now) for now in (0.5, 1.0, 2.9, 3.0, 99.0)] == pytest.approx(
        [1.2, 1.2, 1.2, 1.0, 1.0]
    )


def test_a_run_without_a_tick_has_no_pace() -> None:
    with pytest.raises(ValueError, match="no tick"):
        pace_of([Call("admit", 0.0, 1.0)], SURFACE, began=0.0)
