"""`traceparent`, as W3C Trace Context has it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from serve.tracing.parent import Parent, is_chosen, new_trace_id, parent_in, traceparent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("header", "parent"),
    [
        (f"00-{TRACE}-{SPAN}-01", Parent(TRACE, SPAN, is_sampled=True)),
        (f" 00-{TRACE}-{SPAN}-00 ", Parent(TRACE, SPAN, is_sampled=False)),
        (f"00-{TRACE}-{SPAN}-03", Parent(TRACE, SPAN, is_sampled=True)),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", Parent(TRACE, SPAN, is_sampled=True)),
        (f"00-{TRACE}-{SPAN}-01-more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{TRACE[:-1]}-{SPAN}-01", None),
        ("", None),
        (None, None),
    ],
)
def test_what_is_valid_is_continued_and_all_else_ignored(
    header: str | None, parent: Parent | None
) -> None:
    assert parent_in(header) == parent


def test_a_header_is_read_back() -> None:
    header = traceparent(TRACE, SPAN, is_sampled=True)
    assert parent_in(header) == Parent(TRACE, SPAN, is_sampled=True)


@given(st.integers(1, 2**128 - 1), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_the_share_is_opentelemetrys(number: int, ratio: float) -> None:
    theirs = TraceIdRatioBased(ratio).should_sample(None, number, "name").decision
    assert is_chosen(f"{number:032x}", ratio) == (theirs is Decision.RECORD_AND_SAMPLE)


def test_a_tenth_is_about_a_tenth() -> None:
    chosen = sum(is_chosen(new_trace_id(), 0.1) for _ in range(4000))
    assert 280 < chosen < 540
