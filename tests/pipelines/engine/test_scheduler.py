"""The first-in-first-out policy. No model, no clock: a test takes microseconds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.engine.scheduler import Scheduler
from pipelines.engine.work import Work


def work(name: str, tokens: int = 10, steps: int = 2) -> Work:
    return Work(id=name, group=name, tokens=tokens, num_steps=steps, arrival=0.0)


def test_the_oldest_works_that_fit_step_together() -> None:
    scheduler = Scheduler(max_tokens_per_tick=25, max_works=8)
    for name in "abc":
        scheduler.add(work(name))
    tick = scheduler.plan(0.0)
    assert tick is not None
    assert tick.work_ids == ("a", "b")
    assert scheduler.advance(tick, 0.0) == ()
    assert [w.id for w in scheduler.advance(tick, 0.0)] == ["a", "b"]
    assert len(scheduler) == 1
    assert scheduler.queued_tokens == 20


def test_nothing_overtakes_a_large_work() -> None:
    scheduler = Scheduler(max_tokens_per_tick=25, max_works=8)
    for name, tokens in [("a", 10), ("large", 100), ("b", 10)]:
        scheduler.add(work(name, tokens, steps=1))
    order = []
    while (tick := scheduler.plan(0.0)) is not None:
        order.append(tick.work_ids)
        scheduler.advance(tick, 0.0)
    assert order == [("a",), ("large",), ("b",)]


def test_cancelled_works_leave_at_the_next_tick() -> None:
    scheduler = Scheduler(max_tokens_per_tick=100, max_works=8)
    scheduler.add(work("a"))
    scheduler.add(work("b", steps=1))
    tick = scheduler.plan(0.0)
    assert tick is not None
    assert scheduler.cancel("a")
    assert not scheduler.cancel("a")
    assert [w.id for w in scheduler.advance(tick, 0.0)] == ["b"]
    assert scheduler.plan(0.0) is None


def test_wrong_use_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Scheduler(max_tokens_per_tick=0, max_works=1)
    scheduler = Scheduler(max_tokens_per_tick=1, max_works=1)
    scheduler.add(work("a"))
    with pytest.raises(ValueError, match="already"):
        scheduler.add(work("a"))


@given(
    works=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 5)), min_size=1, max_size=20),
    max_tokens=st.integers(1, 80),
    max_works=st.integers(1, 6),
)
def test_every_work_runs_its_steps_in_order_within_the_bounds(
    works: list[tuple[int, int]], max_tokens: int, max_works: int
) -> None:
    scheduler = Scheduler(max_tokens_per_tick=max_tokens, max_works=max_works)
    tokens = {}
    for index, (size, steps) in enumerate(works):
        scheduler.add(work(str(index), size, steps))
        tokens[str(index)] = size
    ran = dict.fromkeys(tokens, 0)
    started: list[str] = []
    while (tick := scheduler.plan(0.0)) is not None:
        load = sum(tokens[i] for i in tick.work_ids)
        assert len(tick.work_ids) == 1 or load <= max_tokens
        assert len(tick.work_ids) <= max_works
        for name in tick.work_ids:
            ran[name] += 1
            if name not in started:
                started.append(name)
        scheduler.advance(tick, 0.0)
    assert list(ran.values()) == [steps for _, steps in works]
    assert started == list(tokens)
