"""What a tick is made of, whose turn it is, and what may be promised. No model, no clock."""

from __future__ import annotations

import random
from typing import get_args

import pytest

from pipelines.contracts import Cut
from pipelines.engine.costs.surface import CostSurface
from pipelines.engine.scheduling.group import MARGIN
from pipelines.engine.scheduling.policies import Policy
from pipelines.engine.scheduling.scheduler import Scheduler
from pipelines.engine.scheduling.work import Tick
from tests.pipelines.engine.works import ONE_AT_A_TIME, SURFACE, Run, scheduler, work

POLICIES = get_args(Policy)


def names(tick: Tick | None) -> tuple[str, ...]:
    assert tick is not None
    return tick.work_ids


@pytest.mark.parametrize("policy", POLICIES)
def test_a_tick_is_filled_to_the_knee_and_its_gap_with_smaller_works(policy: Policy) -> None:
    works = [work("a", tokens=40), work("b", tokens=30), work("c", tokens=50), work("d", tokens=15)]
    for position, each in enumerate(works):
        each.arrival = each.deadline = 100.0 + position
    tick = scheduler(policy, works=works).plan(0.0)
    assert tick is not None
    assert tick.load.tokens == 85
    assert SURFACE.seconds(tick.load) == pytest.approx(SURFACE.knee)
    if policy != "srpt":
        assert set(tick.work_ids) == {"a", "b", "d"}


@pytest.mark.parametrize("policy", POLICIES)
def test_one_that_is_past_the_knee_steps_alone(policy: Policy) -> None:
    works = [work("large", tokens=500, steps=1), work("small", tokens=10, steps=1, arrival=1.0)]
    run = Run(scheduler(policy, works=works)).until_idle()
    assert sorted(tick.work_ids for _, tick in run.ticks) == [("large",), ("small",)]


def test_works_and_tokens_of_a_tick_are_bounded() -> None:
    works = [work(str(i), tokens=10) for i in range(8)]
    assert names(scheduler(max_works=3, works=works).plan(0.0)) == ("0", "1", "2")
    assert names(scheduler(max_tokens=25, works=works).plan(0.0)) == ("0", "1")


def test_fifo_is_by_priority_and_arrival() -> None:
    works = [
        work("second", arrival=2.0, steps=1),
        work("first", arrival=1.0, steps=9),
        work("urgent", arrival=3.0, steps=9, priority=1),
    ]
    run = Run(scheduler("fifo", cost=ONE_AT_A_TIME, works=works))
    run.tick()  # the oldest has a tick by age
    assert [names(run.tick()) for _ in range(9)] == [("urgent",)] * 9


def test_srpt_is_by_what_is_left() -> None:
    works = [work("long", steps=9, arrival=0.0), work("short", steps=3, arrival=1.0)]
    run = Run(scheduler("srpt", cost=ONE_AT_A_TIME, works=works)).until_idle()
    assert run.done["short"] <= 4 * 1.0 < run.done["long"]


def test_edf_serves_those_on_time_then_the_shortest_of_the_late() -> None:
    works = [
        work("hopeless", steps=5, deadline=1.0, arrival=0.1),
        work("late and short", steps=2, deadline=1.0, arrival=0.2),
        work("due", steps=4, deadline=8.0, arrival=0.3),
        work("due later", steps=4, deadline=12.0, arrival=0.4),
    ]
    run = Run(scheduler("edf", cost=ONE_AT_A_TIME, works=works)).until_idle()
    assert list(run.done) == ["due", "due later", "late and short", "hopeless"]
    assert run.done["due"] <= 8.0
    assert run.done["due later"] <= 12.0


def test_images_of_one_request_are_on_time_together() -> None:
    four = [work(f"4/{i}", group="4", steps=2, deadline=7.0) for i in range(4)]
    works = [*four, work("1", steps=2, deadline=7.0)]
    run = Run(scheduler("edf", cost=ONE_AT_A_TIME, works=works))
    assert names(run.tick()) != ("1",), "the oldest of the late has its tick by age"
    assert [names(run.tick()) for _ in range(2)] == [("1",)] * 2


def test_a_newcomer_preempts_after_any_step() -> None:
    run = Run(scheduler("edf", cost=ONE_AT_A_TIME, works=[work("long", steps=50, deadline=500.0)]))
    run.tick()
    run.add(work("tight", steps=2, deadline=run.now + 3.0, arrival=run.now))
    assert names(run.tick()) == ("tight",)
    assert names(run.tick()) == ("tight",)
    assert names(run.tick()) == ("long",)


def test_a_late_request_runs_fewer_steps_where_that_keeps_its_deadline() -> None:
    each = work("a", steps=20, min_steps=5, deadline=MARGIN * 12.5)
    run = Run(scheduler("edf", cost=ONE_AT_A_TIME, works=[each])).until_idle()
    (first, *rest) = [tick for _, tick in run.ticks]
    assert first.cuts == (("a", Cut(0, 12)),)
    assert not any(tick.cuts for tick in rest)
    assert run.done["a"] == pytest.approx(12.0)
    assert each.num_steps == 12


@pytest.mark.parametrize("policy", ["fifo", "srpt"])
def test_other_policies_cut_nothing_and_neither_does_a_question(policy: Policy) -> None:
    each = work("a", steps=20, min_steps=5, deadline=MARGIN * 12.5)
    asked = scheduler(policy, cost=ONE_AT_A_TIME, works=[each])
    asked.promise(work("b", deadline=1.0), 0.0)
    run = Run(asked).until_idle()
    assert len(run.ticks) == 20


def test_a_cancelled_work_leaves_in_any_state() -> None:
    made = scheduler(cost=ONE_AT_A_TIME, max_bytes=1)
    for name in ("running", "parked", "waiting"):
        made.add(work(name, num_bytes=1, steps=3))
    run = Run(made)
    first = names(run.tick())
    made.add(work("urgent", num_bytes=1, steps=1, deadline=run.now + 1.5))
    tick = made.plan(run.now)
    assert tick is not None
    assert tick.parked == first
    for name in (*tick.work_ids, *first, "waiting"):
        assert made.cancel(name)
        assert not made.cancel(name)
    assert made.advance(tick, run.now) == (), "it left while it was stepped"
    assert len(made) == 1
    run.until_idle()
    assert len(made) == 0
    assert made.queued_s == 0
    assert made.plan(run.now) is None


def test_memory_is_bounded_and_the_parked_come_back() -> None:
    made = scheduler(cost=ONE_AT_A_TIME, max_bytes=150)
    for i in range(4):
        made.add(work(str(i), num_bytes=100, steps=6 - i, deadline=100.0 - 10 * i))
    resident: set[str] = set()
    parked: list[str] = []
    run = Run(made)

    def disturb(run: Run) -> None:
        if len(run.ticks) in (3, 6, 9):
            name = f"urgent {run.now}"
            made.add(work(name, num_bytes=100, steps=1, deadline=run.now + 1.3, arrival=run.now))
        resident.difference_update(run.done)

    while run.tick() is not None:
        tick = run.ticks[-1][1]
        resident -= set(tick.parked)
        parked += tick.parked
        resident |= set(tick.work_ids)
        assert len(resident) <= 1
        disturb(run)
    assert parked
    assert set(parked) <= set(run.done)
    assert len(run.done) == 7


def test_what_can_never_fit_is_not_taken() -> None:
    made = scheduler(max_tokens=100, max_bytes=2**20)
    assert made.fits(work("a", tokens=100, num_bytes=2**20))
    for each in (work("a", tokens=101), work("a", num_bytes=2**20 + 1)):
        assert not made.fits(each)
        with pytest.raises(ValueError, match="never fit"):
            made.add(each)
    assert made.capacity == "100 tokens and 1 MiB of trajectories"
    made.add(work("a"))
    with pytest.raises(ValueError, match="already"):
        made.add(work("a"))
    with pytest.raises(ValueError, match="at least 1"):
        Scheduler(cost=SURFACE, max_tokens=1, max_works=0)


def test_a_work_has_a_segment_and_steps() -> None:
    with pytest.raises(ValueError, match="at least one"):
        work("a", steps=0)


def test_what_is_queued_follows_steps_and_prices() -> None:
    made = scheduler(cost=ONE_AT_A_TIME, works=[work("a", steps=4), work("b", steps=1)])
    assert made.queued_s == pytest.approx(5.0)
    Run(made).tick()
    assert made.queued_s == pytest.approx(4.0)
    made.cost = CostSurface(base=0.0, per_token=0.2)
    assert made.queued_s == pytest.approx(8.0)


@pytest.mark.parametrize("max_works", [1, 2, 100])
def test_what_is_queued_is_what_it_takes(max_works: int) -> None:
    works = [work(str(i), tokens=10, steps=10) for i in range(19)]
    made = scheduler(max_works=max_works, works=works)
    queued_s = made.queued_s
    assert Run(made).until_idle().now == pytest.approx(queued_s, rel=0.1)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_inputs_give_the_same_plans(policy: Policy) -> None:
    def ticks() -> list[tuple[float, Tick]]:
        draw = random.Random(3)
        run = Run(scheduler(policy, max_bytes=300))
        for i in range(300):
            run.scheduler.add(
                work(
                    str(i),
                    group=str(i - i % draw.choice((1, 3))),
                    tokens=draw.choice((10, 20, 60)),
                    steps=draw.randint(1, 6),
                    arrival=i / 10,
                    deadline=draw.choice((None, 10.0, 100.0, 300.0)),
                    tenant=draw.choice("aaab"),
                    min_steps=draw.choice((None, 2)),
                    num_bytes=50,
                )
            )
        return run.until_idle().ticks

    assert ticks() == ticks()


@pytest.mark.parametrize("policy", ["fifo", "srpt", "edf"])
def test_a_surplus_is_of_works_that_would_be_the_last_and_leaves_what_is_kept(
    policy: Policy,
) -> None:
    works = [work(f"w{number}", steps=3, arrival=number) for number in range(5)]
    plan = scheduler(policy, cost=ONE_AT_A_TIME, works=works)
    first = plan.plan(5.0)
    assert first is not None
    plan.advance(first, 6.0)
    each_s = 3.0
    surplus = plan.surplus(2 * each_s, 6.0)
    assert [item.id for item in surplus] == ["w4", "w3"]
    assert plan.queued_s - each_s * len(surplus) >= 2 * each_s
    assert plan.surplus(100.0, 6.0) == []
    assert "w0" not in [item.id for item in plan.surplus(0.0, 6.0)]
