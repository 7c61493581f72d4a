"""The simulated engine and router, on costs that can be added up by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.routers import RouterName
from benchmarks.simulation import EngineModel, Overheads, Pace, Request, replay
from pipelines.engine.costs.surface import CostSurface

ONE = Request(at_s=0.0, deadline_s=100.0, tenant="t", num_images=1, segments=(10,), num_steps=12)
MODEL = EngineModel(
    cost=CostSurface(base=1.0, per_token=0.01),
    overheads=Overheads(),
    max_tokens=1000,
    max_works=8,
    checkpoint_every=5,
)


def test_a_request_alone_takes_its_ticks_and_all_that_is_beside_them() -> None:
    assert replay([ONE], MODEL, policy="edf").latencies_s == [pytest.approx(12 * 1.1)]
    overheads = Overheads(per_tick=0.5, per_admission=3.0, per_checkpoint=0.25, per_finish=0.125)
    result = replay([ONE], replace(MODEL, overheads=overheads), policy="edf")
    # Checkpoints after 5 and 10 of 12 steps; what is finished needs none.
    assert result.latencies_s == [pytest.approx(12 * 1.6 + 3.0 + 2 * 0.25 + 0.125)]
    assert result.ticks == 12


def test_images_of_a_request_step_together_and_are_done_when_the_last_is() -> None:
    overheads = Overheads(per_finish=0.1)
    model = replace(MODEL, overheads=overheads)
    result = replay([replace(ONE, num_images=3)], model, policy="fifo")
    assert result.latencies_s == [pytest.approx(12 * 1.3 + 3 * 0.1)]


def test_who_comes_during_a_tick_joins_the_next() -> None:
    late = replace(ONE, at_s=0.5, num_steps=1)
    result = replay([ONE, late], MODEL, policy="srpt")
    assert result.latencies_s == [pytest.approx(12 * 1.1 + 0.1), pytest.approx(1.1 + 1.2 - 0.5)]


def test_a_slow_machine_takes_longer_for_everything_while_it_is_slow() -> None:
    pace = Pace(5.0, (2.0, 1.0))
    model = replace(MODEL, overheads=Overheads(per_tick=0.4), pace=pace)
    # Ticks at 0 and 3 s take 2 x 1.5 s, all later ones 1.5 s.
    assert replay([ONE], model, policy="edf").latencies_s == [pytest.approx(2 * 3.0 + 10 * 1.5)]


def test_an_idle_engine_waits_for_the_next_arrival() -> None:
    result = replay([ONE, replace(ONE, at_s=50.0)], MODEL, policy="edf")
    assert result.latencies_s == [pytest.approx(12 * 1.1)] * 2
    assert result.utilisation == pytest.approx(12 * 1.1 / 50)


def test_the_policy_decides_who_is_on_time() -> None:
    model = replace(MODEL, max_works=1)
    hurried = replace(ONE, at_s=0.1, num_steps=2, deadline_s=5.0)
    assert replay([ONE, hurried], model, policy="fifo").met == [True, False]
    assert replay([ONE, hurried], model, policy="edf").met == [True, True]


@pytest.mark.parametrize("router", ["finish_first", "two_choices"])
def test_the_router_prefers_who_has_less_under_way(router: RouterName) -> None:
    pair = [ONE, replace(ONE, tenant="u")]
    assert (
        replay(pair, MODEL, policy="fifo", replicas=2, router=router).latencies_s
        == [pytest.approx(12 * 1.1)] * 2
    )
    images = replace(ONE, num_images=8)
    assert replay([images], MODEL, policy="fifo", replicas=2, router=router).latencies_s == [
        pytest.approx(12 * 1.4)
    ]


def test_a_large_image_keeps_small_ones_away_from_its_replica() -> None:
    large = replace(ONE, num_steps=100)
    pair = replace(ONE, num_steps=2, num_images=2)
    small = [replace(pair, at_s=0.1 + 5 * index) for index in range(12)]
    model = replace(MODEL, max_works=1)

    def mean_s(router: RouterName) -> float:
        run = replay([large, *small], model, policy="fifo", replicas=2, router=router)
        return sum(run.latencies_s[1:]) / len(small)

    assert mean_s("finish_first") == pytest.approx(2 * 2 * 1.1)
    assert mean_s("two_choices") > 10


def test_a_replay_is_decided_by_its_seed() -> None:
    requests = [replace(ONE, at_s=index * 0.3, num_images=1 + index % 3) for index in range(60)]

    def latencies(seed: int) -> list[float]:
        return replay(requests, MODEL, policy="edf", replicas=4, seed=seed).latencies_s

    assert latencies(0) == latencies(0)
    assert latencies(0) != latencies(1)


def test_work_is_counted_in_engine_seconds_at_the_knee() -> None:
    surface = CostSurface(base=0.15, per_token=0.01)
    assert surface.knee == pytest.approx(1.0)
    request = replace(ONE, num_images=2, num_steps=5)
    assert request.engine_s(surface) == pytest.approx(2 * 5 * 0.1 / 0.85)
