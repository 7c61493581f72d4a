"""Which steps are skipped, and how far velocities are forecast."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.skipping import (
    FORECAST_FROM,
    FORECAST_SHARE,
    evaluated_steps,
    forecasts,
    num_forwards,
)


@given(num_steps=st.integers(1, 200))
def test_ends_are_evaluated_and_no_two_neighbours_skipped(num_steps: int) -> None:
    steps = evaluated_steps(num_steps)
    assert {0, min(1, num_steps - 1), num_steps - 1} <= set(steps)
    assert all(1 <= after - here <= 2 for here, after in pairwise(steps))
    assert num_forwards(num_steps, skips_steps=True) == len(steps)
    assert num_forwards(num_steps, skips_steps=False) == num_steps


@pytest.mark.parametrize(("num_steps", "forwards"), [(1, 1), (4, 3), (10, 6), (28, 15), (50, 26)])
def test_the_cost_is_known(num_steps: int, forwards: int) -> None:
    assert num_forwards(num_steps, skips_steps=True) == forwards


@given(num_steps=st.integers(1, 40), bend=st.floats(0.5, 4.0), slope=st.floats(-3, 3))
def test_a_step_with_the_forecast_is_the_euler_steps_that_it_stands_for(
    num_steps: int, bend: float, slope: float
) -> None:
    """For any velocities: here v(sigma) = 2 + slope sigma, at uneven levels."""
    sigmas = [((num_steps - i) / num_steps) ** bend for i in range(num_steps + 1)]
    starts = (*evaluated_steps(num_steps), num_steps)
    shares = forecasts(sigmas)
    assert len(shares) == len(starts) - 1
    last = 0.0
    for index, (here, after) in enumerate(pairwise(starts)):
        velocity = 2 + slope * sigmas[here]
        by_steps = 0.0
        for step in range(here, after):
            ahead = 0.0
            if index >= FORECAST_FROM:
                behind = sigmas[here] - sigmas[starts[index - 1]]
                ahead = FORECAST_SHARE * (sigmas[step] - sigmas[here]) / behind
            by_steps += (sigmas[step + 1] - sigmas[step]) * (velocity + ahead * (velocity - last))
        at_once = (sigmas[after] - sigmas[here]) * (velocity + shares[index] * (velocity - last))
        assert at_once == pytest.approx(by_steps, abs=1e-12)
        last = velocity
