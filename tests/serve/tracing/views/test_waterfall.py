from __future__ import annotations

import copy
from typing import Any

import pytest

from deployments.stage_table import STAGES, StageRow
from serve.tracing.views.format import duration, moment, share
from serve.tracing.views.otlp_reader import NotATrace, read_spans
from serve.tracing.views.page import axis_marks
from serve.tracing.views.waterfall import Kind, Row, waterfall
from tests.serve.tracing.sample import TRACE_ID, TraceBuilder, large, others, sample


def named(otlp: dict[str, Any], name: str) -> list[Row]:
    return [row for row in waterfall(otlp).rows if row.name == name]


def test_rows_are_parents_before_parts_and_these_by_their_start():
    fall = waterfall(sample())
    assert fall.trace_id == TRACE_ID
    assert [row.name for row in fall.rows[:6]] == [
        "POST /v1/images/generations",
        "admit",
        "image",
        "denoise",
        "transfer",
        "encode.wait",
    ]
    assert [row.depth for row in fall.rows[:6]] == [0, 1, 1, 2, 3, 3]
    assert len(fall.rows) == len(read_spans(sample()))


def test_the_order_of_the_spans_does_not_matter():
    turned = sample()
    turned["resourceSpans"][0]["scopeSpans"][0]["spans"].reverse()
    ours, theirs = waterfall(sample()), waterfall(turned)
    assert {row.span_id: row for row in ours.rows} == {row.span_id: row for row in theirs.rows}
    assert ours.phases == theirs.phases


def test_what_a_row_looks_like_comes_from_its_name_and_its_parts():
    looks = {row.name: (row.stage, row.kind) for row in waterfall(sample()).rows}
    assert looks["POST /v1/images/generations"] == ("other", Kind.GROUP)
    assert looks["finish"] == ("finish", Kind.GROUP)
    assert looks["finish.run"] == ("finish", Kind.RUN)
    assert looks["encode.wait"] == ("encode", Kind.WAIT)
    assert looks["denoise"] == ("denoise", Kind.GROUP)
    assert looks["denoise.run"] == ("denoise", Kind.RUN)  # its ticks are only some of it
    assert looks["denoise.paused"] == ("denoise", Kind.PAUSED)
    assert looks["tick"] == ("denoise", Kind.TICK)
    assert looks["transfer"] == ("transfer", Kind.RUN)
    assert looks["store"] == ("store", Kind.RUN)


@pytest.mark.parametrize("row", STAGES, ids=lambda row: row.key)
def test_every_stage_of_the_table_has_a_hue(row: StageRow):
    built = TraceBuilder()
    top = built.span("POST /v1/images/generations", 0, 10)
    built.span(f"{row.phase}.run", 0, 10, top)
    assert [each.stage for each in waterfall(built.otlp()).stages()] == [row.phase]


def test_what_took_no_time_comes_before_what_began_then():
    built = TraceBuilder()
    top = built.span("POST /v1/images/generations", 0, 10)
    built.span("decode.run", 2, 9, top)
    built.span("decode.wait", 2, 2, top)
    assert [row.name for row in waterfall(built.otlp()).rows[1:]] == ["decode.wait", "decode.run"]


def test_time_that_was_lost_is_no_work():
    built = TraceBuilder()
    top = built.span("POST /v1/images/generations", 0, 10)
    built.span("denoise.run", 0, 4, top)
    built.span("denoise.lost", 4, 9, top)
    built.span("retry.wait", 9, 10, top)
    times = {each.stage: each for each in waterfall(built.otlp()).stages()}
    assert (times["denoise"].worked_ns, times["denoise"].waited_ns) == (4e6, 5e6)
    assert times["other"].waited_ns == 1e6


def test_details_in_a_few_words():
    assert [row.detail for row in named(sample(), "denoise")] == [
        "attempt 1",
        "attempt 1",
        "attempt 2, from step 9",
    ]
    assert named(sample(), "denoise.run")[0].detail == "steps 1 to 9, shared with 3 requests"
    assert named(sample(), "tick")[0].detail == "4101, 4 images, 18,432 tokens"
    assert [row.detail for row in named(sample(), "encode.run")] == ["", "cached", "cached"]
    assert named(sample(), "decode.run")[0].detail == "batch of 2"


def test_an_attempt_follows_the_one_that_was_lost():
    _, lost, again = named(sample(), "denoise")
    assert lost.error == "Denoiser lost its replica"
    assert again.after == (lost.span_id,)
    assert again.error is None


def test_a_tick_names_each_of_the_others_once():
    built = TraceBuilder()
    links = [(others(1), "00000000000000aa"), (others(2), "00000000000000aa")]
    built.span("tick", 0, 5, links=[*links, (others(1), "00000000000000ab")])
    (tick,) = waterfall(built.otlp()).rows
    assert tick.shared_with == (others(1), others(2))
    assert tick.after == ()


def test_checkpoints_are_marks_with_their_step():
    marks = named(sample(), "denoise.run")[0].marks
    assert [mark.label for mark in marks] == ["checkpoint after step 4", "checkpoint after step 8"]
    assert [mark.at_ns for mark in marks] == [594_000_000, 978_000_000]


def test_phases_add_up_to_the_whole():
    fall = waterfall(sample())
    assert sum(phase.elapsed_ns for phase in fall.phases) == pytest.approx(fall.length_ns)
    assert sum(stage.elapsed_ns for stage in fall.stages()) == pytest.approx(fall.length_ns)


def test_images_at_work_at_once_share_that_time():
    built = TraceBuilder()
    top = built.span("POST /x", 0, 100)
    built.span("decode.run", 0, 60, top)
    built.span("safety.wait", 20, 80, top)
    fall = waterfall(built.otlp())
    found = {(phase.stage, phase.kind): phase.elapsed_ns / 1e6 for phase in fall.phases}
    assert found == {
        ("decode", Kind.RUN): 20 + 40 / 2,
        ("safety", Kind.WAIT): 40 / 2 + 20,
        ("other", Kind.GROUP): 20,  # nobody tells of it
    }
    assert [(stage.worked_ns, stage.waited_ns) for stage in fall.stages()] == [
        (40e6, 0),
        (0, 40e6),
        (20e6, 0),
    ]


def test_a_span_whose_parent_is_the_clients_is_a_top():
    built = TraceBuilder()
    built.span("POST /x", 0, 10, parent="00f067aa0ba902b7")
    built.span("POST /y", 20, 30, parent="00f067aa0ba902b8")
    fall = waterfall(built.otlp())
    assert [(row.name, row.depth) for row in fall.rows] == [("POST /x", 0), ("POST /y", 0)]


def test_parents_in_a_circle_are_shown_once():
    built = TraceBuilder()
    built.span("a", 0, 10, parent="0000000000000002")
    built.span("b", 0, 9, parent="0000000000000001")
    built.span("alone", 5, 6, parent="0000000000000003")
    assert sorted(row.name for row in waterfall(built.otlp()).rows) == ["a", "alone", "b"]


def test_a_trace_may_be_deeper_than_python_recurses():
    built = TraceBuilder()
    parent = ""
    for _ in range(3000):
        parent = built.span("deeper", 0, 10, parent)
    assert waterfall(built.otlp()).rows[-1].depth == 2999


def test_a_span_that_ends_before_it_begins_is_empty():
    built = TraceBuilder()
    built.span("admit", 5, 3)
    (row,) = waterfall(built.otlp()).rows
    assert (row.start_ns, row.end_ns) == (0, 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("traceId", "../../../etc"),
        ("spanId", '"><script>'),
        ("startTimeUnixNano", "soon"),
        ("parentSpanId", "javascript:0"),
    ],
)
def test_what_is_not_otlp_is_refused_and_named(field: str, value: str):
    otlp = copy.deepcopy(sample())
    otlp["resourceSpans"][0]["scopeSpans"][0]["spans"][1][field] = value
    with pytest.raises(NotATrace, match=f"resourceSpans.0.scopeSpans.0.spans.1.{field}"):
        waterfall(otlp)


def test_a_trace_without_spans_is_none():
    with pytest.raises(NotATrace, match="without spans"):
        waterfall({"resourceSpans": []})
    with pytest.raises(NotATrace, match="resourceSpans"):
        waterfall({"error": {"message": "no"}})


def test_as_many_spans_as_wanted():
    assert len(waterfall(large(2000)).rows) == 2000


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0"),
        (999, "999 ns"),
        (350_000, "350 µs"),
        (999_600, "1.00 ms"),
        (41_230_000, "41.2 ms"),
        (9_994_000_000, "9.99 s"),
        (9_996_000_000, "10.0 s"),
        (1_234_000_000_000, "1,234 s"),
    ],
)
def test_durations_have_three_digits(nanoseconds: float, text: str):
    assert duration(nanoseconds) == text


def test_shares_and_moments():
    assert share(1, 8) == "12.5 %"
    assert share(1, 0) == "-"
    assert moment(1_795_341_296.118) == "2026-11-22 09:54:56.118 UTC"
    assert moment(1e30) == "-"


@pytest.mark.parametrize("length", [1, 7, 999, 10_412_000_000, 3 * 10**15])
def test_a_time_axis_has_a_few_round_marks(length: int):
    marks = axis_marks(length)
    assert marks[0] == 0
    assert marks[-1] <= length
    assert 1 <= len(marks) <= 8
