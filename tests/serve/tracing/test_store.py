from __future__ import annotations

import json
import pickle  # noqa: TID251  (as Ray hands spans over; of our own making)
import tracemalloc
from dataclasses import replace

import httpx
import pytest

from pipelines.tracing.spans import Event, Span
from serve.tracing.recorder import Trace
from serve.tracing.sizes import span_bytes
from serve.tracing.store import MAX_REQUESTS, TraceStore
from serve.tracing.views.excerpt import MAX_ROWS, excerpt
from tests.serve.conftest import ClientOf
from tests.serve.fakes import services

TRACE = "a" * 32


def span(name: str = "root", *, text: str = "", children: tuple[Span, ...] = ()) -> Span:
    attributes = {"sluice.step_first": 1, "sluice.replica": "0123456789ab", "text": text}
    return Span(name=name, start_ns=1, end_ns=2, attributes=attributes, children=children)


def trace(*, trace_id: str = TRACE, name: str = "root", parts: int = 0, text: str = "") -> Trace:
    children = tuple(span("tick") for _ in range(parts))
    root = replace(span(name, text=text, children=children), id="c" * 16)
    return Trace(trace_id=trace_id, parent_id="b" * 16, root=root)


def test_it_is_bounded_by_bytes():
    one = span_bytes(trace(text="x" * 10_000).root)
    store = TraceStore(max_spans=10**6, max_bytes=3 * one)
    for number in range(9):
        store.put(trace(trace_id=f"{number}" * 32, text="x" * 10_000))
    assert [kept.trace_id[0] for kept in store.latest()] == ["8", "7", "6"]
    for number in range(5):  # of one trace as well
        store.put(trace(name=str(number), text="x" * 10_000))
    assert [kept.root.name for kept in store.latest()] == ["4", "3", "2"]


def test_one_trace_has_its_latest_requests_kept():
    store = TraceStore(max_spans=10**6, max_bytes=10**9)
    for number in range(3000):
        store.put(trace(name=str(number)))
    kept = store.get(TRACE)
    assert len(kept) == MAX_REQUESTS
    assert (kept[0].root.name, kept[-1].root.name) == (str(3000 - MAX_REQUESTS), "2999")


@pytest.mark.parametrize("text", ["", "x" * 20_000, "\N{PARTY POPPER}" * 5_000])
def test_estimated_bytes_are_those_that_it_takes(text: str):
    event = Event("checkpoint", 5, {"sluice.step": 5})
    links = (f"00-{TRACE}-{'b' * 16}-01",)
    ticks = [
        Span(name="tick", start_ns=i, end_ns=i + 1, attributes={"sluice.tick": i}, links=links)
        for i in range(10**15, 10**15 + 50)
    ]
    children = (*(span("denoise.run") for _ in range(50)), *ticks)
    root = Span(name="POST", start_ns=1, end_ns=2, events=(event,), error=text, children=children)
    sent = pickle.dumps(root)
    copies = 20
    tracemalloc.start()
    try:
        kept = [pickle.loads(sent) for _ in range(copies)]  # noqa: S301
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(kept) == copies
    assert taken / copies < span_bytes(root) < 2 * taken / copies


def test_an_excerpt_is_of_the_latest_requests():
    shown = excerpt([trace(name=str(n), parts=9) for n in range(5)], max_spans=25)
    assert [each.root.name for each in shown.traces] == ["3", "4"]
    assert (shown.left_out_requests, shown.left_out_spans) == (3, 0)


def test_an_excerpt_of_one_that_is_too_long_is_its_beginning():
    long = span("image", children=tuple(span(str(n), children=(span("tick"),)) for n in range(50)))
    root = Trace(trace_id=TRACE, parent_id=None, root=span(children=(long, span("respond"))))
    shown = excerpt([trace(), root], max_spans=11)
    assert (shown.left_out_requests, shown.left_out_spans) == (1, root.num_spans - 11)
    (cut,) = shown.traces
    assert cut.num_spans == 11
    (image,) = cut.root.children
    assert [len(child.children) for child in image.children] == [1, 1, 1, 1, 0]


def test_an_excerpt_of_what_fits_is_all_of_it():
    all_of_it = [trace(parts=3), trace()]
    shown = excerpt(all_of_it)
    assert list(shown.traces) == all_of_it
    assert (shown.left_out_requests, shown.left_out_spans) == (0, 0)


@pytest.mark.parametrize("max_spans", [30, 31, 1000])
def test_an_excerpt_has_no_more_than_its_room_however_many_jobs_there_are(max_spans: int):
    jobs = [trace(name="job", parts=1) for _ in range(40)]
    runs = [trace(name="job.run", parts=4) for _ in range(40)]
    shown = excerpt([*jobs, *runs], max_spans=max_spans)
    assert sum(each.num_spans for each in shown.traces) <= max_spans
    assert len(shown.traces) + shown.left_out_requests == 80
    assert {each.root.name for each in shown.traces} == {"job", "job.run"}
    assert shown.left_out_spans == 0


async def test_a_page_says_what_it_leaves_out(client_of: ClientOf):
    given = services()
    for number in range(30):
        given.traces.put(trace(name=f"request {number}", parts=199))
    answer = await client_of(given).get(f"/v1/traces/{TRACE}?format=html")
    drawn = MAX_ROWS // 200
    assert answer.text.count('role="treeitem"') <= MAX_ROWS
    assert f"{30 - drawn} earlier requests of this trace are not drawn here" in answer.text
    assert "request 29" in answer.text
    whole = await client_of(given).get(f"/v1/traces/{TRACE}")
    assert sum(map(len, spans(whole))) == 30 * 200


def spans(answer: httpx.Response) -> list[list[object]]:
    data = json.loads(answer.content)
    return [scope["spans"] for each in data["resourceSpans"] for scope in each["scopeSpans"]]
