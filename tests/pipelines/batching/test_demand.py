"""What stages say of their work."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest

from pipelines.batching.batcher import Batcher
from pipelines.batching.demand import Demand, Meter
from pipelines.engine.observe.stats import Counters


def test_items_count_as_the_mean_of_those_before_them() -> None:
    meter = Meter()
    meter.came()
    assert meter.demand == Demand(0.0, 0.0, 0)
    meter.left()
    meter.ran(4, 2.0)
    for _ in range(3):
        meter.came()
    assert meter.demand == Demand(1.5, 2.0, 4)
    meter.ran(1, 1.5)
    assert meter.demand.queued_s == pytest.approx(3 * 0.6)


def test_lanes_share_the_work() -> None:
    meter = Meter(lanes=4)
    meter.ran(1, 2.0)
    meter.came()
    assert meter.demand == Demand(0.5, 0.5, 1)


async def test_a_batcher_counts_what_waits_what_runs_and_what_left() -> None:
    gate = threading.Event()
    gate.set()

    def run(items: Sequence[float]) -> list[float]:
        assert gate.wait(60)
        time.sleep(sum(items))
        return list(items)

    batcher = Batcher(run, key=lambda item: None, max_batch_size=2, name="demand")
    await batcher.submit(0.05)
    before = batcher.demand
    assert before.done == 1
    assert before.queued_s == 0.0
    assert before.busy_s >= 0.05
    gate.clear()
    tasks = [asyncio.create_task(batcher.submit(0.05)) for _ in range(4)]
    await asyncio.sleep(0)
    assert batcher.demand.queued_s == pytest.approx(4 * before.busy_s)
    tasks[3].cancel()
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    after = batcher.demand
    assert (after.queued_s, after.done) == (0.0, 4)
    assert after.busy_s >= before.busy_s + 0.15
    batcher.close()


def test_a_turn_is_stuck_after_many_times_its_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    counters = Counters()
    assert counters.stalled_s is None
    with counters.turn(expected_s=10.0):
        now[0] = 199.0  # a long tick is no stuck one
        assert counters.stalled_s is None
        now[0] = 201.0
        assert counters.stalled_s == 201.0
    assert counters.stalled_s is None
    assert counters.busy_s == 201.0
    with counters.turn(expected_s=0.01):
        now[0] = 201.0 + 59.0
        assert counters.stalled_s is None
        now[0] = 201.0 + 61.0
        assert counters.stalled_s == 61.0
