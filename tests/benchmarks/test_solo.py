"""Solo times between the measured kinds of request."""

from __future__ import annotations

import json

import pytest

from benchmarks.requests import square
from benchmarks.solo import IMAGES, SoloTimes
from benchmarks.trace import Kind

SIZE = square(64)
TIMES = SoloTimes(
    steps=(10, 20),
    seconds={Kind(SIZE, steps, n): 0.05 + 0.01 * steps * n for steps in (10, 20) for n in IMAGES},
)


@pytest.mark.parametrize(("steps", "n"), [(10, 1), (13, 1), (20, 8), (33, 3), (15, 6)])
def test_it_is_linear_in_steps_and_images(steps: int, n: int):
    assert TIMES(Kind(SIZE, steps, n)) == pytest.approx(0.05 + 0.01 * steps * n)


def test_few_steps_still_take_time():
    noisy = SoloTimes(
        steps=(10, 20),
        seconds={Kind(SIZE, steps, n): 0.02 * steps for steps in (10, 20) for n in IMAGES}
        | {Kind(SIZE, 20, n): 0.5 for n in IMAGES},
    )
    assert noisy(Kind(SIZE, 1, 1)) == pytest.approx(0.1)


def test_a_file_gives_the_same_times():
    assert SoloTimes.from_json(json.loads(json.dumps(TIMES.to_json()))) == TIMES


def test_a_size_that_was_not_measured_is_an_error():
    with pytest.raises(KeyError):
        TIMES(Kind(square(128), 10, 1))
