"""What became of requests: counted, kept, and read again."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks.record import Cell, Record, Served, summary
from benchmarks.requests import square
from benchmarks.solo import IMAGES, SoloTimes
from benchmarks.trace import Arrival, Kind

SETTINGS = {"trace": "drawn", "window_s": 25.0}


def request(
    latency_s: float, *, at_s: float = 0.0, n: int = 1, status: int = 200, encodes: float = 1.0
) -> Served:
    arrival = Arrival(
        at_s=at_s,
        tenant="T",
        n=n,
        steps=10,
        width=64,
        height=64,
        prompt="a red circle",
        seed=1,
        deadline_s=2.0,
        solo_s=0.5,
        is_tight=True,
    )
    images = n if status == 200 else 0
    return Served(
        arrival=arrival, latency_s=latency_s, status=status, images=images, encodes=encodes
    )


def test_a_failure_is_a_miss_and_has_no_latency():
    result = summary([[request(1.0, n=2), request(3.0), request(0.1, status=500)]])
    assert result.met == pytest.approx(1 / 3)
    assert result.mean_s == 2.0
    assert (result.requests, result.failed) == (3, 1)


def test_runs_are_summed_up_together():
    one = [request(1.0, n=4), request(2.0, at_s=8.0, n=4, encodes=0.0)]
    other = [request(1.5, n=2, at_s=3.5)]
    result = summary([one, other])
    assert result.images_per_s == pytest.approx(10 / 15)
    assert result.encodes_per_image == pytest.approx(2 / 10)
    assert result.steps_run == 100
    assert (result.p50_s, result.met) == (1.5, 1.0)


def test_percentiles():
    result = summary([[request(float(value)) for value in range(101)]])
    assert (result.p50_s, result.p95_s, result.p99_s) == (50.0, 95.0, 99.0)


def test_nothing_answered():
    result = summary([[request(1.0, status=0)]])
    assert (result.met, result.images_per_s, result.encodes_per_image) == (0.0, 0.0, 0.0)
    assert math.isnan(result.mean_s)


def test_an_image_too_few_is_a_failure():
    short = Served(
        arrival=request(1.0, n=2).arrival, latency_s=1.0, status=200, images=1, encodes=1.0
    )
    assert not short.is_ok


def test_a_record_goes_on_from_its_file(tmp_path: Path):
    path = tmp_path / "output" / "slo.json"
    solo = SoloTimes(
        steps=(10, 20),
        seconds={Kind(square(64), steps, n): 0.1 * n for steps in (10, 20) for n in IMAGES},
    )
    record = Record(path, SETTINGS)
    assert record.solo is None
    record.set_solo(solo)
    record.set_capacity(2.5)
    record.add(Cell("edf", 1.0, 1), [request(1.0), request(2.5)])
    again = Record(path, SETTINGS)
    assert again.solo == solo
    assert again.capacity == 2.5
    assert again.runs == record.runs
    again.add(Cell("fifo", 1.0, 1), [request(3.0)])
    assert list(Record(path, SETTINGS).runs) == [Cell("edf", 1.0, 1), Cell("fifo", 1.0, 1)]


def test_runs_with_other_settings_are_not_mixed(tmp_path: Path):
    path = tmp_path / "slo.json"
    Record(path, SETTINGS).add(Cell("edf", 1.0, 1), [request(1.0)])
    with pytest.raises(ValueError, match="name another file"):
        Record(path, {**SETTINGS, "window_s": 5.0})
