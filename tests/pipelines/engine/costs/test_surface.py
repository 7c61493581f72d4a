"""The cost surface: fitted, followed, and shared out."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.engine.costs.surface import (
    EMPTY,
    KNEE_SHARE,
    CostModel,
    CostSurface,
    Load,
    Observation,
    fit,
    relative_errors,
)

TRUTH = CostSurface(base=0.004, per_token=2e-5, per_square=3e-9, per_segment=5e-4)
FLOORED = replace(TRUTH, floor=0.03)
LENGTHS = [80, 272, 528, 1040, 2064, 4112]
LOADS = [Load.of([length] * count) for length in LENGTHS for count in (1, 2, 4, 8)]


def observed(surface: CostSurface, loads: list[Load] = LOADS) -> list[Observation]:
    return [Observation(load, surface.seconds(load)) for load in loads]


def test_a_load_is_the_sum_of_its_segments() -> None:
    load = Load.of([3, 4])
    assert load == Load(7, 25, 2)
    assert load.plus(Load.of([5])) == Load.of([3, 4, 5])
    assert load.minus(load) == EMPTY


def test_the_fit_recovers_the_surface() -> None:
    fitted = fit(observed(TRUTH))
    for name in ("base", "per_token", "per_square", "per_segment"):
        assert getattr(fitted, name) == pytest.approx(getattr(TRUTH, name), rel=1e-4), name
    assert fitted.floor == 0


def test_the_fit_recovers_the_floor() -> None:
    fitted = fit(observed(FLOORED))
    assert fitted.floor == pytest.approx(0.03)
    assert max(relative_errors(fitted, observed(FLOORED))) < 0.01
    assert fitted.per_token == pytest.approx(TRUTH.per_token, rel=0.01)


def test_the_fit_is_steady_under_noise_and_never_negative() -> None:
    noise = random.Random(1)
    points = [
        Observation(load, seconds * noise.uniform(0.95, 1.05)) for load, seconds in observed(TRUTH)
    ]
    fitted = fit(points)
    assert max(relative_errors(fitted, observed(TRUTH))) < 0.08
    assert min(fitted.base, fitted.per_token, fitted.per_square, fitted.per_segment) >= 0


def test_a_surface_needs_a_point_and_one_is_enough() -> None:
    with pytest.raises(ValueError, match="at least one"):
        fit([])
    load = Load.of([100])
    assert fit([Observation(load, 0.5)]).seconds(load) == pytest.approx(0.5)


def test_at_the_knee_the_base_has_its_share() -> None:
    assert TRUTH.base / TRUTH.knee == pytest.approx(KNEE_SHARE)
    assert FLOORED.knee == 0.03
    tokens = TRUTH.knee_tokens(272)
    assert tokens % 272 == 0
    full = [272] * (tokens // 272)
    assert TRUTH.seconds(Load.of(full)) <= TRUTH.knee < TRUTH.seconds(Load.of([*full, 272]))
    assert TRUTH.knee_tokens(100_000) == 100_000


surfaces = st.builds(
    CostSurface,
    base=st.floats(1e-4, 1e-2),
    per_token=st.floats(1e-6, 1e-4),
    per_square=st.floats(0, 1e-8),
    per_segment=st.floats(0, 1e-3),
    floor=st.floats(0, 0.05),
)


@given(surfaces, st.sampled_from(LENGTHS), st.integers(1, 40))
def test_the_shares_of_a_full_tick_are_its_seconds(
    surface: CostSurface, length: int, at_most: int
) -> None:
    load = Load.of([length])
    own = surface.marginal(load)
    fit_in = (surface.knee - surface.base) / own
    if fit_in <= 1:
        assert surface.share(load) == pytest.approx(surface.seconds(load))
    else:
        assert surface.share(load) * fit_in == pytest.approx(surface.knee)
    # Where a bound ends the tick before the knee does, fewer share its base.
    if fit_in >= at_most:
        full = Load.of([length] * at_most)
        assert surface.share(load, at_most=at_most) * at_most == pytest.approx(
            surface.seconds(full)
        )
    else:
        assert surface.share(load, at_most=at_most) == surface.share(load)


def test_the_shares_of_a_mixed_full_tick_are_its_seconds() -> None:
    surface = CostSurface(base=0.15, per_token=0.001)
    loads = [Load.of([length]) for length in (100, 150, 600)]
    assert sum(surface.share(load) for load in loads) == pytest.approx(surface.knee)


def test_a_slowdown_is_followed_at_once_and_learned_in_the_end() -> None:
    model = CostModel(observed(TRUTH))
    load = LOADS[5]
    before = model.surface.seconds(load)
    for _ in range(40):
        assert not model.observe(load, 2 * TRUTH.seconds(load))
    assert model.surface.seconds(load) / before == pytest.approx(2, rel=0.15)
    assert model.surface.seconds(LOADS[-1]) / TRUTH.seconds(LOADS[-1]) > 1.8, "all are slower"
    refitted = False
    for turn in range(512):
        load = LOADS[turn % len(LOADS)]
        refitted = model.observe(load, 2 * TRUTH.seconds(load)) or refitted
    assert refitted
    slow = [Observation(load, 2 * seconds) for load, seconds in observed(TRUTH)]
    assert max(relative_errors(model.surface, slow)) < 0.05


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_change_of_speed_is_not_forgotten_when_the_surface_is_fitted_anew(factor: float) -> None:
    model = CostModel(observed(TRUTH))
    load = LOADS[5]
    for _ in range(512):
        model.observe(load, TRUTH.seconds(load))
    for turn in range(512):
        model.observe(load, factor * TRUTH.seconds(load))
        if turn > 60:
            assert model.surface.seconds(load) == pytest.approx(
                factor * TRUTH.seconds(load), rel=0.1
            )


def test_one_interrupted_tick_changes_little() -> None:
    model = CostModel(observed(TRUTH))
    load = LOADS[0]
    model.observe(load, 1000 * TRUTH.seconds(load))
    assert model.surface.seconds(load) < 1.2 * TRUTH.seconds(load)


def test_sizes_that_nobody_asks_for_keep_their_cost() -> None:
    model = CostModel(observed(TRUTH))
    for _ in range(512):
        model.observe(LOADS[0], TRUTH.seconds(LOADS[0]))
    assert max(relative_errors(model.surface, observed(TRUTH))) < 0.01


def test_hundreds_of_different_ticks_are_fitted_as_well() -> None:
    draw = random.Random(2)
    loads = [
        Load.of([draw.randint(50, 4000) for _ in range(draw.randint(1, 8))]) for _ in range(500)
    ]
    fitted = fit(observed(FLOORED, loads))
    assert max(relative_errors(fitted, observed(FLOORED))) < 0.03


@pytest.mark.parametrize("seed", range(4))
def test_the_knee_stays_where_noisy_ticks_are_filled_to_it(seed: int) -> None:
    """What a shared machine does to times, fed back: ticks are as long as the knee says."""
    draw = random.Random(seed)
    model = CostModel(observed(TRUTH))
    knees: list[float] = []
    for _ in range(4000):
        length = draw.choice(LENGTHS[:3])
        count = max(1, model.surface.knee_tokens(length) // length - draw.randrange(2))
        load = Load.of([length] * count)
        noise = draw.lognormvariate(0.3, 0.4) + (draw.random() < 0.05) * draw.expovariate(0.5)
        model.observe(load, noise * TRUTH.seconds(load))
        knees.append(model.surface.knee_tokens(272))
    expected = TRUTH.knee_tokens(272)
    assert min(knees) > 0.5 * expected
    assert max(knees) < 2 * expected


def test_a_shape_that_was_calibrated_wrongly_is_corrected_where_ticks_run() -> None:
    model = CostModel(observed(replace(TRUTH, base=2 * TRUTH.base, per_token=1.5e-5)))
    for turn in range(640):
        load = LOADS[turn % len(LOADS)]
        model.observe(load, TRUTH.seconds(load))
    before = relative_errors(replace(TRUTH, base=2 * TRUTH.base, per_token=1.5e-5), observed(TRUTH))
    after = relative_errors(model.surface, observed(TRUTH))
    assert max(after) < 0.6 * max(before)
