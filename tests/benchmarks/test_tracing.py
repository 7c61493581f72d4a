"""How much of a request its spans cover."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.tracing import coverage_of


def span(name: str, start: int, end: int, parent: str | None = None) -> dict[str, Any]:
    times = {"startTimeUnixNano": str(start), "endTimeUnixNano": str(end)}
    return {"name": name, "spanId": name, **times, **({"parentSpanId": parent} if parent else {})}


ROOT = span("root", 0, 100)


@pytest.mark.parametrize(
    ("parts", "covered"),
    [
        ([], 1.0),
        ([span("a", 0, 40, "root"), span("b", 30, 60, "root")], 0.6),
        ([span("a", 0, 90, "root"), span("leaf", 0, 20, "a")], 0.2),
        ([span("run", 0, 90, "root"), span("tick", 0, 20, "run")], 0.9),
        ([span("a", 50, 200, "root")], 0.5),
    ],
)
def test_leaves_count_once_and_ticks_not_at_all(
    parts: list[dict[str, Any]], covered: float
) -> None:
    assert coverage_of([ROOT, *parts]) == pytest.approx(covered)
