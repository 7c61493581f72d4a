from __future__ import annotations

from serve.load.recent_requests import RecentRequests


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_counts_of_the_last_minute():
    clock = Clock()
    recent = RecentRequests(clock)
    recent.count("ok", "met")
    clock.now += 30
    recent.count("ok", None)
    recent.count("overloaded", "refused")
    load = recent.load({"anna": 2})
    assert load.outcomes == {"ok": 2, "overloaded": 1}
    assert load.deadlines == {"met": 1, "refused": 1}
    assert (load.seconds, load.in_flight) == (30, {"anna": 2})
    clock.now += 30
    assert recent.load({}).outcomes == {"ok": 1, "overloaded": 1}
    clock.now += 30
    load = recent.load({})
    assert (load.outcomes, load.deadlines, load.seconds) == ({}, {}, 60)


def test_one_that_has_just_begun_has_no_infinite_rate():
    assert RecentRequests(Clock()).load({}).seconds == 1


def test_it_grows_no_larger_than_the_minute():
    clock = Clock()
    recent = RecentRequests(clock)
    for _ in range(1000):
        clock.now += 1
        recent.count("ok", None)
    assert recent.load({}).outcomes == {"ok": 60}
