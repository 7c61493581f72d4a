"""Ways that are timed in pairs: what is recorded of those that work and of those that do not."""

from __future__ import annotations

import math
import time

import pytest
import torch

from benchmarks.alternation import ENOUGH, Limit, Step, Timing, Way, in_pairs
from tests.pretend_cuda import pretend_cuda

CPU = torch.device("cpu")


def constant(value: float) -> Step:
    return lambda: torch.full((3,), value)


def timed(*ways: Way, limit: Limit = ENOUGH, device: torch.device = CPU) -> dict[str, Timing]:
    return {way.name: timing for way, timing in in_pairs(ways, device=device, limit=limit)}


def test_every_way_is_timed_in_turn_with_the_first_and_compared_with_it() -> None:
    order: list[str] = []

    def way(name: str, value: float) -> Way:
        def step() -> torch.Tensor:
            order.append(name)
            return torch.full((3,), value)

        return Way(name, lambda: step)

    timings = timed(way("a", 2.0), way("b", 2.5), way("c", 2.0), limit=Limit(rounds=4))
    warm = 2
    assert order == (
        ["a"] * (warm + 4) + ["b"] * warm + ["a", "b"] * 4 + ["c"] * warm + ["a", "c"] * 4
    )
    assert [len(timing.ms) for timing in timings.values()] == [4, 4, 4]
    assert [timing.difference for timing in timings.values()] == [0.0, pytest.approx(0.25), 0.0]
    assert [timing.same_bits for timing in timings.values()] == [True, False, True]
    for timing in timings.values():
        assert timing.failure is timing.skipped is timing.peak_gib is None
        assert timing.ratio is not None
        assert timing.ratio > 0


def test_a_way_is_made_when_its_turn_comes() -> None:
    made: list[str] = []

    def way(name: str) -> Way:
        def make() -> Step:
            made.append(name)
            return constant(1.0)

        return Way(name, make)

    seen = [(w.name, list(made)) for w, _ in in_pairs([way("a"), way("b")], device=CPU)]
    assert seen == [("a", ["a"]), ("b", ["a", "b"])]


def test_a_slow_way_is_timed_less_often() -> None:
    def slow() -> torch.Tensor:
        time.sleep(0.03)
        return torch.ones(3)

    timings = timed(
        Way("quick", lambda: constant(1.0)),
        Way("slow", lambda: slow),
        limit=Limit(rounds=50, seconds=0.05),
    )
    assert 1 <= len(timings["slow"].ms) <= 2


def test_a_way_that_fails_is_recorded_and_the_others_go_on() -> None:
    calls = 0

    def fails_to_be_made() -> Step:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    def fails_later() -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > 4:
            raise ValueError("no more")
        return torch.ones(3)

    timings = timed(
        Way("unmade", fails_to_be_made),
        Way("good", lambda: constant(1.0)),
        Way("late", lambda: fails_later),
        Way("infinite", lambda: constant(math.inf)),
        Way("after", lambda: constant(1.0)),
    )
    assert timings["unmade"].failure == "OutOfMemoryError: CUDA out of memory."
    assert timings["late"].failure == "ValueError: no more"
    assert timings["infinite"].failure == "ValueError: the result is not finite"
    assert timings["good"].failure is timings["after"].failure is None
    assert timings["after"].same_bits


def test_after_the_deadline_nothing_is_begun() -> None:
    late = iter([False, True])  # the second is asked for before the second round
    timings = {
        way.name: timing
        for way, timing in in_pairs(
            [Way("a", lambda: constant(1.0)), Way("b", lambda: constant(1.0))],
            device=CPU,
            is_late=lambda: next(late, True),
        )
    }
    assert len(timings["a"].ms) == 1
    assert timings["b"].skipped == "no time left"
    assert timings["b"].ms == []


def test_on_a_gpu_the_host_has_a_clock_of_its_own() -> None:
    """The way through CUDA's events, on the pretended device: it has no faster clock than ours."""

    def sleeping() -> torch.Tensor:
        time.sleep(0.002)
        return torch.ones(3, device="cuda")

    with pretend_cuda():
        timings = timed(Way("a", lambda: sleeping, needs_cuda=True), device=torch.device("cuda", 0))
    timing = timings["a"]
    assert timing.failure is None
    assert len(timing.ms) == len(timing.host_ms) == 5
    assert all(2 <= host <= ms for host, ms in zip(timing.host_ms, timing.ms, strict=True))
    assert timing.peak_gib == 0.0
    skipped = timed(Way("a", lambda: constant(1.0), needs_cuda=True))["a"]
    assert skipped.skipped == "needs CUDA"
