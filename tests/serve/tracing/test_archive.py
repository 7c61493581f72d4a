"""Traces of several ingress replicas, from any of them."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.tracing.spans import Span
from serve.tracing.archive import MAX_LISTED, Archive, roots_of
from serve.tracing.recorder import Trace
from serve.tracing.store import TraceStore


def trace(trace_id: str, start: int = 0) -> Trace:
    part = Span(name="part", start_ns=start, end_ns=start + 1)
    root = Span(name="root", start_ns=start, end_ns=start + 2, children=(part,))
    return Trace(trace_id=trace_id, parent_id=None, root=root)


def store(*traces: Trace) -> TraceStore:
    made = TraceStore(10_000, 2**30)
    for each in traces:
        made.put(each)
    return made


class Replicas:
    """Two others, of which one does not answer."""

    def __init__(self, *stores: TraceStore) -> None:
        self.stores = stores
        self.asked: list[tuple[Any, ...]] = []

    async def __call__(self, method: str, *arguments: Any) -> list[Any]:
        self.asked.append((method, *arguments))
        if method == "latest_traces":
            return [*map(roots_of, self.stores), TimeoutError()]
        return [*(each.get(*arguments) for each in self.stores), TimeoutError()]


async def test_one_replica_asks_nobody() -> None:
    alone = Archive(store(trace("a")))
    assert await alone.get("a") == [trace("a")]
    assert await alone.get("b") == []
    assert [each.trace_id for each in await alone.latest()] == ["a"]


async def test_the_others_are_asked_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = store(trace("a"), trace("b", 4))
    replicas = Replicas(own, store(trace("b", 5), trace("b", 3)))
    archive = Archive(own, replicas)
    assert await archive.get("a") == [trace("a")]
    assert await archive.get("b") == [trace("b", 3), trace("b", 4), trace("b", 5)]
    assert replicas.asked == [("kept_traces", "a"), ("kept_traces", "b")]
    assert "does not tell" in caplog.text
    listed = await archive.latest()
    assert sorted(each.trace_id for each in listed) == ["a", "b", "b", "b"]
    assert all(each.root.children == () for each in listed)


def test_a_list_is_bounded() -> None:
    many = store(*(trace(str(number)) for number in range(MAX_LISTED + 10)))
    roots = roots_of(many)
    assert len(roots) == MAX_LISTED
    assert roots[0].trace_id == str(MAX_LISTED + 9)
