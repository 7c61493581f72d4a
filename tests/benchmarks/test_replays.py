"""Grids of replays and the search for enough replicas."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest

from benchmarks.replays import (
    POLICIES,
    REPLICAS,
    WANTED_MET,
    grid,
    replicas_needed,
    run,
    summarise,
)
from benchmarks.simulation import EngineModel, Overheads, Request
from pipelines.engine.costs.surface import CostSurface

MODEL = EngineModel(
    cost=CostSurface(base=0.15, per_token=0.01),
    overheads=Overheads(per_tick=0.05),
    max_tokens=1000,
    max_works=32,
)


@pytest.fixture
def pool() -> Iterator[Executor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def draw(load: float, streams: int) -> list[Request]:
    """One image at a time, evenly: every step is a hundredth of a second and a bit."""
    count = round(8 * load * streams)
    return [
        Request(
            at_s=10 * index / count,
            deadline_s=2.5,
            tenant=str(index % 5),
            num_images=4,
            segments=(10,),
            num_steps=2,
        )
        for index in range(count)
    ]


def test_a_summary_counts_deadlines_and_percentiles() -> None:
    summary = summarise([1.0, 2.0, 3.0, 10.0], [1.0, 1.0, 5.0, 10.0])
    assert summary.met == 0.75
    assert summary.mean_s == 4.0
    assert summary.p50_s == 2.5
    assert summary.p95_s == pytest.approx(8.95)
    assert summary.p99_s == pytest.approx(9.79)


def test_the_grid_has_each_policy_on_each_number_of_replicas(pool: Executor) -> None:
    runs = grid(pool, draw, MODEL, load=0.5, seed=3)
    assert set(runs) == {(policy, count) for policy in POLICIES for count in REPLICAS}
    for (policy, count), item in runs.items():
        assert item.requests == round(8 * 0.5 * count)
        assert item == run(draw(0.5, count), MODEL, policy, count, 3)


def test_as_few_replicas_as_keep_the_deadlines(pool: Executor) -> None:
    needed = replicas_needed(pool, draw, MODEL, offered=(2, 6), seed=0)
    for policy in POLICIES:
        for load, count in needed[policy].items():
            assert count is not None
            assert run(draw(1.0, load), MODEL, policy, count, 0).summary.met >= WANTED_MET
            if count > load:
                fewer = run(draw(1.0, load), MODEL, policy, count - 1, 0)
                assert fewer.summary.met < WANTED_MET


def test_deadlines_that_nothing_can_keep_need_no_number(pool: Executor) -> None:
    def hopeless(load: float, streams: int) -> list[Request]:
        return [
            Request(
                at_s=0.0,
                deadline_s=0.01,
                tenant="",
                num_images=1,
                segments=(10,),
                num_steps=round(load * streams),
            )
        ]

    needed = replicas_needed(pool, hopeless, MODEL, offered=(1,), seed=0)
    assert needed == {policy: {1: None} for policy in POLICIES}
