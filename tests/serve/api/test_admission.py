from __future__ import annotations

import pytest

from pipelines.errors import Overloaded
from serve.api.admission import Admission


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_places_are_counted_and_given_back():
    admission = Admission(2)
    with admission.slot():
        with admission.slot():
            assert admission.in_flight == 2
            with pytest.raises(Overloaded, match="2 requests are in flight"), admission.slot():
                raise AssertionError("there is no third place")
        assert admission.in_flight == 1
    assert admission.in_flight == 0


def test_a_failure_gives_its_place_back():
    admission = Admission(1)
    with pytest.raises(ZeroDivisionError), admission.slot():
        raise ZeroDivisionError
    assert admission.in_flight == 0


def test_the_time_to_come_back_follows_the_durations():
    clock = Clock()
    admission = Admission(1, clock=clock)
    for _ in range(50):
        with admission.slot():
            clock.now += 30.0
    with admission.slot(), pytest.raises(Overloaded) as caught, admission.slot():
        raise AssertionError("there is no second place")
    assert caught.value.retry_after_s == pytest.approx(30.0, rel=0.01)
