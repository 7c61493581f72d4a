"""Arrivals: a pure function of trace, seed, load and window."""

from __future__ import annotations

import csv
import gzip
import itertools
from pathlib import Path
from statistics import fmean, pstdev

import pytest

from benchmarks.trace import (
    DEADLINE_SLACK_S,
    LOOSE,
    TIGHT,
    Arrival,
    Kind,
    TraceRow,
    arrivals,
    busy_starts,
    drawn_trace,
    read_trace,
    rerolled_share,
)

TRACE = drawn_trace()


def solo(kind: Kind) -> float:
    return 0.01 * kind.n * kind.steps * kind.size.width / 64


def some(seed: int = 1, load: float = 1.0, trace: list[TraceRow] = TRACE) -> list[Arrival]:
    return arrivals(trace, seed=seed, load=load, window_s=60.0, solo=solo, default_steps=10)


def test_the_load_is_what_was_asked_for():
    for load in (0.5, 1.0, 1.3):
        requests = some(load=load)
        offered_s = sum(request.solo_s for request in requests)
        assert load * 60.0 <= offered_s < load * 60.0 + max(r.solo_s for r in requests)
        times = [request.at_s for request in requests]
        assert times == sorted(times)
        assert times[0] == 0.0
        assert times[-1] < offered_s / load


def test_the_same_seed_gives_the_same_arrivals_and_more_load_only_adds_some():
    assert some() == some()
    assert some(seed=2) != some()
    low, high = some(load=0.5), some(load=1.0)
    assert len(low) < len(high)
    for one, other in zip(low, high, strict=False):
        assert (one.prompt, one.seed, one.deadline_s) == (
            other.prompt,
            other.seed,
            other.deadline_s,
        )


def test_half_of_the_deadlines_are_tight():
    requests = [request for seed in range(20) for request in some(seed)]
    assert fmean(request.is_tight for request in requests) == pytest.approx(0.5, abs=0.05)
    for request in requests:
        factor = TIGHT if request.is_tight else LOOSE
        assert request.deadline_s == pytest.approx(factor * request.solo_s + DEADLINE_SLACK_S)


def test_the_gaps_are_the_traces_scaled_by_one_factor():
    trace = [TraceRow(float(at), f"T{at}", str(at), 1, 30) for at in (0, 3, 4, 9, 10, 20)]
    requests = arrivals(
        trace, seed=1, load=1.0, window_s=0.55, solo=lambda kind: 0.1, default_steps=10
    )
    gaps = [b.at_s - a.at_s for a, b in itertools.pairwise(requests)]
    start = int(requests[0].tenant[1:])
    times = [row.at_s for row in trace] + [row.at_s + 21.0 for row in trace]
    first = times.index(start)
    expected = [b - a for a, b in zip(times[first:], times[first + 1 :], strict=False)]
    factor = gaps[0] / expected[0]
    assert gaps == pytest.approx([factor * gap for gap in expected[: len(gaps)]])


def test_steps_are_scaled_to_the_model():
    for trace_steps, steps in ((30, 10), (40, 13), (1, 1), (100, 33), (1000, 100)):
        trace = [TraceRow(float(at), "T", "p", 1, trace_steps) for at in range(9)]
        assert {request.steps for request in some(trace=trace)} == {steps}


def test_windows_start_in_busy_hours():
    quiet = [TraceRow(3600.0 * hour, "T", "p", 1, 30) for hour in range(10)]
    busy = [TraceRow(3600.0 * 4 + second, "T", "p", 1, 30) for second in range(1, 50)]
    trace = sorted(quiet + busy)
    assert {int(trace[place].at_s // 3600) for place in busy_starts(trace)} == {4}


def test_the_drawn_trace_has_the_distribution_of_the_real_one():
    gaps = [b.at_s - a.at_s for a, b in itertools.pairwise(TRACE)]
    assert pstdev(gaps) / fmean(gaps) == pytest.approx(1.1, abs=0.1)
    assert fmean(row.n for row in TRACE) == pytest.approx(2.69, abs=0.15)
    assert fmean(row.steps == 30 for row in TRACE) == pytest.approx(0.906, abs=0.02)
    assert 1 - len({row.prompt_id for row in TRACE}) / len(TRACE) == pytest.approx(0.29, abs=0.03)


def test_a_reroll_repeats_its_tenants_prompt():
    trace = [TraceRow(float(i), f"T{i % 2}", f"p{i % 2}", 1, 30) for i in range(50)]
    requests = some(trace=trace)
    assert len({request.prompt for request in requests}) == 2
    assert rerolled_share(requests) == pytest.approx(1 - 2 / len(requests))


COLUMNS = [
    "gmt_create",
    "predict_type",
    "groupId",
    "prompt_length",
    "negative_prompt_length",
    "num_images_per_prompt",
    "num_inference_steps",
    "checkpoint_model_version_id",
]


def test_a_trace_file_is_read(tmp_path: Path):
    lines = [
        ("2024-11-15 16:57:51", "TXT_2_IMG", "G1", "63", "", "4.0", "40.0", "M1"),
        ("2024-11-15 16:57:50", "TXT_2_IMG", "G0", "63", "26", "1.0", "30.0", "M0"),
        ("2024-11-15 16:57:52", "IMG_2_IMG", "G0", "63", "26", "1.0", "30.0", "M0"),
        ("2024-11-15 16:57:53", "TXT_2_IMG", "G0", "63", "26", "", "", "M0"),
        ("2024-11-15 16:57:54", "TXT_2_IMG", "G0", "63", "26", "8.0", "30.0", "M0"),
    ]
    with gzip.open(tmp_path / "requests.csv.gz", "wt", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *lines])
    first, second, third = rows = read_trace(tmp_path)
    assert [row.tenant for row in rows] == ["G0", "G1", "G0"]
    assert [(row.n, row.steps) for row in rows] == [(1, 30), (4, 40), (8, 30)]
    assert 0.0 < second.at_s - first.at_s < 2.0
    assert first.prompt_id == third.prompt_id != second.prompt_id


def test_a_folder_without_a_trace_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="holds 0 files"):
        read_trace(tmp_path)
