"""Nobody floods the others out, and nobody starves."""

from __future__ import annotations

from typing import get_args

import pytest

from pipelines.engine.costs.surface import CostSurface
from pipelines.engine.scheduling.policies import Policy
from tests.pipelines.engine.works import ONE_AT_A_TIME, SURFACE, Run, scheduler, work

POLICIES = get_args(Policy)
SURFACES = pytest.mark.parametrize("surface", [SURFACE, ONE_AT_A_TIME], ids=["packed", "alone"])


@SURFACES
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("tokens", [5, 20, 2000], ids=["short", "equal", "worth more than all"])
def test_a_flood_delays_anothers_first_by_a_tick_or_two(
    policy: Policy, surface: CostSurface, tokens: int
) -> None:
    run = Run(scheduler(policy, cost=surface))
    for i in range(500):
        run.add(work(f"flood {i}", tokens=20, tenant="a", deadline=50.0 + i))
    for _ in range(20):
        run.tick()
    newcomer = work(
        "first", tokens=tokens, steps=3, tenant="b", arrival=run.now, deadline=run.now + 1e5
    )
    run.add(newcomer)
    come, came_at = len(run.ticks), run.now
    while "first" not in run.done:
        run.tick()
    assert run.first_tick_of("first") - come <= 2
    # A tenth of the engine may go by age, in whole ticks.
    alone_s, tick_s = 3 * surface.seconds(newcomer.load), 2.0
    assert run.now - came_at <= max(3.0, alone_s) * 1.1 + 2 * tick_s


@SURFACES
@pytest.mark.parametrize("policy", POLICIES)
def test_a_promise_to_one_tenant_counts_with_no_flood(policy: Policy, surface: CostSurface) -> None:
    flooded = scheduler(policy, cost=surface)
    for i in range(500):
        flooded.add(work(f"flood {i}", tokens=20, tenant="a", deadline=50.0, is_promised=True))
    newcomer = work("first", tokens=20, tenant="b", deadline=15.0)
    promise = flooded.promise(newcomer, 0.0)
    assert promise.is_kept
    assert promise.earliest_s <= 15.0
    # Behind the other's: what the flooding one is told counts with both.
    flooded.add(newcomer)
    late = flooded.promise(work("more", tokens=20, tenant="a", deadline=0.6), 0.0)
    assert not late.is_kept
    assert late.earliest_s >= promise.earliest_s


@SURFACES
@pytest.mark.parametrize("policy", POLICIES)
def test_the_flooding_tenant_is_not_starved(policy: Policy, surface: CostSurface) -> None:
    """The other keeps the engine busy for ever, without flooding it."""
    run = Run(scheduler(policy, cost=surface))
    for i in range(40):
        run.add(work(f"flood {i}", tokens=20, steps=4, tenant="a", deadline=100.0))
    made = 0

    def keep_busy(run: Run) -> None:
        nonlocal made
        while sum(name.startswith("b") for name in run.waiting) < 8:
            made += 1
            run.add(
                work(
                    f"b{made}", tokens=20, tenant="b", arrival=run.now, deadline=run.now + 60 + made
                )
            )

    while len(run.ticks) < 4000 and any(name.startswith("flood") for name in run.waiting):
        keep_busy(run)
        run.tick()
    assert all(f"flood {i}" in run.done for i in range(40))


@SURFACES
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("deadline", [None, 1.0, 200.0], ids=["none", "missed", "to be missed"])
def test_nothing_starves_behind_an_endless_overload(
    policy: Policy, surface: CostSurface, deadline: float | None
) -> None:
    """Newcomers are shorter, due earlier and of a higher priority, and too many."""
    run = Run(scheduler(policy, cost=surface))
    run.add(work("old", tokens=60, steps=5, deadline=deadline))
    made = 0

    def overload(run: Run) -> None:
        nonlocal made
        for _ in range(12 if surface is SURFACE else 2):
            made += 1
            run.add(
                work(
                    f"new {made}",
                    tokens=10,
                    steps=1,
                    priority=1,
                    arrival=run.now + 0.001,
                    deadline=run.now + 10.0,
                )
            )

    while "old" not in run.done and len(run.ticks) < 1000:
        overload(run)
        run.tick()
    assert "old" in run.done
    # A tenth of the engine is its: 5 steps of 0.75 s (or 6 s), nine parts to the newcomers.
    alone_s = 5 * surface.seconds(work("like it", tokens=60).load)
    assert run.done["old"] <= 15 * alone_s + (deadline or 0.0)


def test_a_rest_that_the_oldest_did_not_need_is_not_saved_up() -> None:
    """A long time of nothing but late requests earns the next old one no burst."""
    run = Run(scheduler("edf", cost=ONE_AT_A_TIME))
    for i in range(200):
        run.add(work(f"late {i}", tokens=10, steps=1, arrival=float(i), deadline=0.5))
    for _ in range(190):
        run.tick()
    for i in range(30):
        run.add(work(f"on time {i}", tokens=10, steps=1, arrival=run.now, deadline=run.now + 50))
    begins = len(run.ticks)
    while not all(f"on time {i}" in run.done for i in range(30)):
        run.tick()
    assert len(run.ticks) - begins <= 30 + 4
