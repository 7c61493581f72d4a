"""Which arrivals a cell of the grid has."""

from __future__ import annotations

import pytest

from benchmarks.record import Cell
from benchmarks.requests import MIXED_SIZES
from benchmarks.slo import cell_arrivals
from benchmarks.solo import IMAGES, SoloTimes
from benchmarks.trace import Kind, drawn_trace

SOLO = SoloTimes(
    steps=(10, 20),
    seconds={
        Kind(size, steps, n): 0.01 * steps * n
        for size, _ in MIXED_SIZES
        for steps in (10, 20)
        for n in IMAGES
    },
)


def test_all_sides_have_the_same_arrivals():
    trace = drawn_trace()
    cells = [Cell(side, 0.7, 2) for side in ("edf", "baseline")]
    ours, theirs = (cell_arrivals(c, trace, SOLO, capacity=2.0, window_s=20.0) for c in cells)
    assert ours == theirs


def test_load_one_is_the_capacity():
    cell = Cell("edf", 1.0, 1)
    requests = cell_arrivals(cell, drawn_trace(), SOLO, capacity=3.0, window_s=20.0)
    offered_s = sum(request.solo_s for request in requests)
    assert offered_s == pytest.approx(60.0, abs=max(request.solo_s for request in requests))
    assert max(request.at_s for request in requests) < offered_s / 3.0
