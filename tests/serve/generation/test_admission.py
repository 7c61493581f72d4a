from __future__ import annotations

import pytest

from pipelines.errors import Overloaded
from serve.generation.admission import Admission


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_places_are_counted_and_given_back():
    admission = Admission(2, 2)
    with admission.slot("t"):
        with admission.slot("t"):
            assert admission.in_flight == 2
            with pytest.raises(Overloaded, match="2 images are in flight"), admission.slot("u"):
                raise AssertionError("there is no third place")
        assert admission.in_flight == 1
    assert admission.in_flight == 0


def test_a_request_takes_a_place_for_each_image():
    admission = Admission(4, 4)
    with admission.slot("t", 3), admission.slot("u", 8):
        assert admission.in_flight == 11
        with pytest.raises(Overloaded, match="11 images"), admission.slot("v"):
            raise AssertionError("all places are taken")
    assert admission.in_flight == 0


def test_a_failure_gives_its_place_back():
    admission = Admission(1, 1)
    with pytest.raises(ZeroDivisionError), admission.slot("t"):
        raise ZeroDivisionError
    assert admission.in_flight == 0


def test_the_time_to_come_back_follows_the_durations():
    clock = Clock()
    admission = Admission(1, 1, clock=clock)
    for _ in range(50):
        with admission.slot("t"):
            clock.now += 30.0
    with admission.slot("t"), pytest.raises(Overloaded) as caught, admission.slot("t"):
        raise AssertionError("there is no second place")
    assert caught.value.retry_after_s == pytest.approx(30.0, rel=0.01)


def test_a_tenants_flood_leaves_places_to_others():
    admission = Admission(3, 2)
    with admission.slot("flood"), admission.slot("flood"):
        with (
            pytest.raises(Overloaded, match="2 of your images") as caught,
            admission.slot("flood"),
        ):
            raise AssertionError("the tenant has no third place")
        assert caught.value.retry_after_s == 1.0
        with admission.slot("other"):
            assert admission.in_flight == 3
            with pytest.raises(Overloaded, match="3 images"), admission.slot("third"):
                raise AssertionError("there is no fourth place")
    with admission.slot("flood"):
        assert admission.in_flight == 1
