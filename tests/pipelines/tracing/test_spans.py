"""Spans as values: parts, gaps, coverage."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from pipelines.errors import StageFailed
from pipelines.tracing.open_spans import OpenSpan, waited_and_ran
from pipelines.tracing.spans import TRANSFER, Span, joined, lately, linked, tagged, within

MS = 1_000_000


def span(name: str, start: float, end: float, *children: Span) -> Span:
    return Span(name=name, start_ns=round(start * MS), end_ns=round(end * MS), children=children)


def names(spans: tuple[Span, ...]) -> list[str]:
    return [each.name for each in spans]


def test_gaps_become_parts_of_their_own() -> None:
    whole = joined(span("denoise", 0, 10, span("b", 6, 8), span("a", 1, 4)), TRANSFER)
    assert names(whole.children) == [TRANSFER, "a", TRANSFER, "b", TRANSFER]
    assert [(each.start_ns, each.end_ns) for each in whole.children][2] == (4 * MS, 6 * MS)


def test_parts_that_overlap_leave_no_gap() -> None:
    whole = joined(span("image", 0, 10, span("a", 0, 9), span("b", 1, 5), span("c", 9, 10)), "x")
    assert names(whole.children) == ["a", "b", "c"]


def test_what_another_clock_put_outside_is_kept_within() -> None:
    inner = span("run", -3, 20, span("tick", 12, 15))
    whole = joined(span("denoise", 0, 10, inner), TRANSFER)
    assert names(whole.children) == ["run"]
    assert (whole.children[0].start_ns, whole.children[0].end_ns) == (0, 10 * MS)
    (tick,) = whole.children[0].children
    assert (tick.start_ns, tick.end_ns) == (10 * MS, 10 * MS)
    assert within(span("a", 30, 40), 0, 10).end_ns == 10


def test_a_part_that_fails_says_why_but_never_more_than_its_kind() -> None:
    root = OpenSpan("root")
    with pytest.raises(StageFailed), root.part("ours"):
        raise StageFailed("the decoder failed", stage="VaeDecoder")
    with pytest.raises(ValueError, match="secret"), root.part("other"):
        raise ValueError("a secret prompt")
    with pytest.raises(asyncio.CancelledError), root.part("left"):
        raise asyncio.CancelledError
    errors = {part.name: part.error for part in root.span().children}
    assert errors == {"ours": "the decoder failed", "other": "ValueError", "left": "cancelled"}


def test_parts_nest_and_end_with_their_body() -> None:
    root = OpenSpan("root", gaps="rest")
    with root.part("image", image=2) as image:
        image.event("moved", step=4)
        with image.part("denoise"):
            pass
    root.end()
    value = root.span()
    image_span = next(part for part in value.children if part.name == "image")
    assert image_span.attributes == {"sluice.image": 2}
    assert image_span.events[0].attributes == {"sluice.step": 4}
    assert image_span.children[0].end_ns <= image_span.end_ns <= value.end_ns
    assert image_span.id == image.id
    assert len(image.id) == 16


def test_what_a_call_waited_and_ran_ends_now() -> None:
    wait, run = waited_and_ran("decode", 0.25, 0.5, batch_size=3)
    assert (wait.name, run.name) == ("decode.wait", "decode.run")
    assert wait.end_ns == run.start_ns
    assert run.end_ns - wait.start_ns == pytest.approx(0.75e9)
    assert run.attributes == {"sluice.batch_size": 3}
    earlier = lately("encode", 1.0, end_ns=wait.start_ns)
    assert tagged((earlier, run), "decode.", replica="r1")[1].attributes["sluice.replica"] == "r1"
    assert tagged((earlier, run), "decode.", replica="r1")[0].attributes == {}


def test_a_link_keeps_the_trace() -> None:
    header = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    assert linked(header, "c" * 16) == "00-" + "a" * 32 + "-" + "c" * 16 + "-01"


def test_an_attempt_is_linked_to_the_one_before() -> None:
    header = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    log = OpenSpan("image")
    for _ in range(3):
        with log.part("encode"), suppress(ValueError), log.part("finish", attempt_in=header):
            raise ValueError
        with log.part("store", attempt_in=""):  # nobody records it
            pass
    parts = log.span().children
    finishes = [part for part in parts if part.name == "finish"]
    assert [part.links for part in finishes] == [
        (),
        *((linked(header, part.id),) for part in finishes[:-1]),
    ]
    assert all(part.links == () for part in parts if part.name != "finish")
