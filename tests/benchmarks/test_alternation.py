"""Ways that are timed in turn: what is recorded of those that work and of those that do not."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.alternation import Step, alternate

CPU = torch.device("cpu")
NEVER = math.inf


def constant(value: float) -> Step:
    return lambda: torch.full((3,), value)


def test_every_way_is_timed_in_turn_and_compared_with_the_first() -> None:
    order: list[str] = []

    def way(name: str, value: float) -> Step:
        def step() -> torch.Tensor:
            order.append(name)
            return torch.full((3,), value)

        return step

    timings = alternate(
        {"a": lambda: way("a", 2.0), "b": lambda: way("b", 2.5)},
        device=CPU,
        rounds=4,
        deadline=NEVER,
    )
    assert order[-8:] == ["a", "b"] * 4
    assert [len(timing.ms) for timing in timings.values()] == [4, 4]
    assert timings["a"].difference == 0.0
    assert timings["b"].difference == pytest.approx(0.25)
    assert timings["b"].failure is None
    assert timings["b"].peak_gib is None


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

    timings = alternate(
        {
            "unmade": fails_to_be_made,
            "late": lambda: fails_later,
            "infinite": lambda: constant(math.inf),
            "good": lambda: constant(1.0),
        },
        device=CPU,
        rounds=3,
        deadline=NEVER,
    )
    assert timings["unmade"].failure == "OutOfMemoryError: CUDA out of memory."
    assert timings["late"].failure == "ValueError: no more"
    assert timings["infinite"].failure == "ValueError: the result is not finite"
    assert timings["good"].failure is None
    assert len(timings["good"].ms) == 3


def test_after_the_deadline_nothing_is_begun() -> None:
    timings = alternate({"a": lambda: constant(1.0)}, device=CPU, rounds=3, deadline=0.0)
    assert timings["a"].failure == "no time left"
    assert timings["a"].ms == []
