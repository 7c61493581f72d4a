"""Offered load is engine seconds; several streams are several groups of users."""

from __future__ import annotations

import pytest

from benchmarks.matching import engine_model
from benchmarks.offered import OfferedLoad
from benchmarks.simulation import Overheads, replay
from benchmarks.trace import DEADLINE_SLACK_S, LOOSE, TIGHT, drawn_trace
from pipelines.catalog import models
from pipelines.engine.costs.surface import CostSurface

SPEC = next(iter(models().values()))
SURFACE = CostSurface(base=0.004, per_token=5e-5, per_segment=2e-4)
MODEL = engine_model(SURFACE, Overheads(per_tick=0.001, per_admission=0.005))


@pytest.fixture(scope="module")
def offered() -> OfferedLoad:
    return OfferedLoad(drawn_trace(), MODEL, SPEC)


def test_a_stream_offers_its_load_over_its_window(offered: OfferedLoad) -> None:
    requests = offered.requests(0.7, streams=1, seconds=20.0, seed=0)
    largest = max(request.engine_s(SURFACE) for request in requests)
    total = sum(request.engine_s(SURFACE) for request in requests)
    assert 14.0 <= total < 14.0 + largest
    # The window grows with what the last request offers beyond it.
    assert all(0 <= request.at_s < total / 0.7 for request in requests)


def test_streams_are_merged_by_time_and_share_no_tenant(offered: OfferedLoad) -> None:
    few = offered.requests(0.5, streams=2, seconds=5.0, seed=0)
    many = offered.requests(0.5, streams=4, seconds=5.0, seed=0)
    assert [request.at_s for request in many] == sorted(request.at_s for request in many)
    assert {request.tenant.split("/")[0] for request in many} == {"0", "1", "2", "3"}
    assert few == [r for r in many if r.tenant.split("/")[0] in ("0", "1")]


def test_deadlines_are_multiples_of_what_the_engine_takes_alone(offered: OfferedLoad) -> None:
    arrivals = offered.arrivals(0.7, seconds=10.0, seed=4)
    for arrival, request in zip(arrivals, offered.view(arrivals), strict=True):
        alone = replay([request], MODEL, policy="fifo").latencies_s[0]
        assert arrival.solo_s == pytest.approx(alone)
        factor = TIGHT if arrival.is_tight else LOOSE
        assert request.deadline_s == pytest.approx(factor * alone + DEADLINE_SLACK_S)
    assert {arrival.is_tight for arrival in arrivals} == {True, False}


def test_the_simulator_sees_tokens_steps_and_images(offered: OfferedLoad) -> None:
    (arrival, *_) = arrivals = offered.arrivals(0.7, seconds=10.0, seed=4)
    request = offered.view(arrivals)[0]
    tokens = arrival.width * arrival.height // 256 + SPEC.max_sequence_length
    assert request.segments == (tokens,)
    assert (request.num_steps, request.num_images) == (arrival.steps, arrival.n)
    assert (request.at_s, request.tenant) == (arrival.at_s, arrival.tenant)


def test_a_larger_model_gets_the_same_requests_in_its_own_sizes(offered: OfferedLoad) -> None:
    large = OfferedLoad(drawn_trace(), MODEL, SPEC, scale=8)
    arrivals = large.arrivals(0.7, seconds=200.0, seed=4)
    sizes = {(arrival.width, arrival.height) for arrival in arrivals}
    assert sizes == {(side, side) for side in (512, 768, 1024, 1536)}
    total = sum(request.engine_s(SURFACE) for request in large.view(arrivals))
    assert total >= 0.7 * 200.0
    small = offered.arrivals(0.7, seconds=10.0, seed=4)
    for ours, theirs in zip(arrivals, small, strict=False):
        assert (ours.width, ours.n, ours.steps) == (8 * theirs.width, theirs.n, theirs.steps)
