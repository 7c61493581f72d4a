"""Waterfall: a trace as rows to draw, each with its depth, times, colour and facts. Pure.

The page and the terminal draw the same rows. What a span is called decides its colour: `stage` is
its hue, `kind` says whether it worked, waited, or holds others.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from deployments.stage_table import STAGES, StageRow
from pipelines.tracing.spans import TRANSFER, Attribute
from serve.tracing.job_spans import JOB
from serve.tracing.views.otlp_reader import ReadEvent, ReadSpan, read_spans
from serve.tracing.views.row_text import detail_of

TICK = "tick"

_BEFORE, _AFTER = ("queue", "job", "admit"), ("store", "respond", "ingress")
"""What has a hue beside the stages: of the ingress before them, and what comes behind them."""

_OTHER = "other"
_HOLDERS = ("image", "finish", "picture")


class Kind(StrEnum):
    """How a row is drawn."""

    GROUP = "group"
    RUN = "run"
    WAIT = "wait"
    PAUSED = "paused"
    TICK = "tick"


_KINDS = (Kind.WAIT, Kind.RUN, Kind.PAUSED, Kind.GROUP)
"""In the order in which a stage's phases are told."""


class Mark(NamedTuple):
    """An event of a row, `at_ns` from the start of the trace."""

    at_ns: int
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One span. Times are nanoseconds from the start of the trace.

    `after` are spans of this trace that it follows; `shared_with` are ids of other traces.
    """

    span_id: str
    depth: int
    parts: int
    name: str
    detail: str
    stage: str
    kind: Kind
    start_ns: int
    end_ns: int
    error: str | None
    facts: tuple[tuple[str, str], ...]
    marks: tuple[Mark, ...]
    after: tuple[str, ...]
    shared_with: tuple[str, ...]

    @property
    def length_ns(self) -> int:
        return self.end_ns - self.start_ns


class Phase(NamedTuple):
    """What the request was in for a part of its time.

    Where several images were in several phases at once, each has its share of that time, so that
    all phases add up to the whole.
    """

    stage: str
    kind: Kind
    elapsed_ns: float


class StageTime(NamedTuple):
    """A stage's phases: time in which it worked, and in which it was waited for."""

    stage: str
    worked_ns: float
    waited_ns: float

    @property
    def elapsed_ns(self) -> float:
        return self.worked_ns + self.waited_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Waterfall:
    """A trace's rows, parents before their parts and these by their start."""

    trace_id: str
    started_ns: int
    length_ns: int
    rows: tuple[Row, ...]
    phases: tuple[Phase, ...]

    def stages(self) -> list[StageTime]:
        """Nanoseconds that each stage worked and waited, in the order of the phases."""
        found: dict[str, StageTime] = {}
        for stage, kind, elapsed in self.phases:
            worked, waited = (0.0, elapsed) if kind in (Kind.WAIT, Kind.PAUSED) else (elapsed, 0.0)
            known = found.get(stage, StageTime(stage, 0.0, 0.0))
            found[stage] = StageTime(stage, known.worked_ns + worked, known.waited_ns + waited)
        return list(found.values())


def waterfall(otlp: Mapping[str, object], table: Sequence[StageRow] = STAGES) -> Waterfall:
    """The rows of a trace in OTLP's JSON, of an application with the stages of `table`.

    Raises NotATrace.
    """
    stages = (*_BEFORE, *(row.phase for row in table), *_AFTER)
    spans = read_spans(otlp)
    started = min(span.start_time_unix_nano for span in spans)
    length = max(1, max(span.end_ns for span in spans) - started)
    children = _children(spans)
    rows: list[Row] = []
    # Not by recursion: a trace may be as deep as whoever made it likes.
    jobs = {span.span_id for span in spans if span.name == JOB}
    waiting = [(span, 0) for span in reversed(_take_tops(spans, children, jobs))]
    while waiting:
        span, depth = waiting.pop()
        parts = children.pop(span.span_id, [])
        row = _row(span, depth, parts, started, stages)
        rows.append(replace(row, after=tuple(each for each in row.after if each not in jobs)))
        waiting.extend((part, depth + 1) for part in reversed(parts))
        if not waiting and children:  # parents in a circle: break it anywhere
            waiting.extend((span, 0) for span in reversed(children.pop(next(iter(children)))))
    return Waterfall(
        trace_id=spans[0].trace_id,
        started_ns=started,
        length_ns=length,
        rows=tuple(rows),
        phases=tuple(_phases(rows, length, stages)),
    )


def _children(spans: Iterable[ReadSpan]) -> dict[str, list[ReadSpan]]:
    found: dict[str, list[ReadSpan]] = {}
    for span in spans:
        found.setdefault(span.parent_span_id, []).append(span)
    for parts in found.values():  # what took no time came before what began then
        parts.sort(key=lambda span: (span.start_time_unix_nano, span.end_ns))
    return found


def _take_tops(
    spans: Iterable[ReadSpan], children: dict[str, list[ReadSpan]], jobs: Container[str]
) -> list[ReadSpan]:
    """Those whose parent is not here, as it is the client's, or was lost; if there are any.

    But a request that submitted one of the `jobs` is made a part of that job, to which it links.
    """
    here = {span.span_id for span in spans}
    lost = [parent for parent in children if parent not in here] or list(children)[:1]
    tops: list[ReadSpan] = []
    for span in [span for parent in lost for span in children.pop(parent)]:
        job = next((link.span_id for link in span.links if link.span_id in jobs), None)
        parts = tops if job is None else children.setdefault(job, [])
        parts.append(span)
        parts.sort(key=lambda span: span.start_time_unix_nano)
    return tops


def _row(
    span: ReadSpan, depth: int, parts: Sequence[ReadSpan], started: int, stages: Sequence[str]
) -> Row:
    facts = span.plain()
    stage, kind = _looks(span.name, depth, parts, stages)
    return Row(
        span_id=span.span_id,
        depth=depth,
        parts=len(parts),
        name=span.name,
        detail=detail_of(span.name, facts, parts),
        stage=stage,
        kind=kind,
        start_ns=span.start_time_unix_nano - started,
        end_ns=span.end_ns - started,
        error=span.error,
        facts=tuple((name, _shown(value)) for name, value in facts.items()),
        marks=tuple(_mark(event, started) for event in span.events),
        after=tuple(link.span_id for link in span.links if link.trace_id == span.trace_id),
        shared_with=tuple(
            dict.fromkeys(link.trace_id for link in span.links if link.trace_id != span.trace_id)
        ),
    )


def _looks(
    name: str, depth: int, parts: Sequence[ReadSpan], stages: Sequence[str]
) -> tuple[str, Kind]:
    if name == TICK:
        return "denoise", Kind.TICK
    stage, _, doing = name.partition(".")
    if name == TRANSFER:
        return TRANSFER, Kind.RUN
    if stage not in stages:
        stage = _OTHER
    if any(part.name != TICK for part in parts) or depth == 0 or name in _HOLDERS:
        return stage, Kind.GROUP
    match doing:
        case "wait" | "lost":
            return stage, Kind.WAIT
        case "paused":
            return stage, Kind.PAUSED
        case _:
            return stage, Kind.RUN


def _mark(event: ReadEvent, started: int) -> Mark:
    step = event.plain().get("sluice.step")
    label = event.name if step is None else f"{event.name} after step {_shown(step)}"
    return Mark(event.time_unix_nano - started, label)


def _shown(value: Attribute) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:,.6g}"
        case _:
            return str(value)


class _Edge(NamedTuple):
    at_ns: int
    phase: tuple[str, Kind]
    change: int


def _phases(rows: Sequence[Row], length: int, stages: Sequence[str]) -> list[Phase]:
    """Where the time of the whole trace went, in the order of the stages."""
    leaves = [row for row in rows if row.kind not in (Kind.GROUP, Kind.TICK)]
    edges = [
        edge
        for row in leaves
        for edge in (
            _Edge(row.start_ns, (row.stage, row.kind), 1),
            _Edge(row.end_ns, (row.stage, row.kind), -1),
        )
    ]
    shares = _shares(sorted(edges), length)
    order = (*stages, TRANSFER, _OTHER)
    return sorted(
        (Phase(*phase, elapsed) for phase, elapsed in shares.items()),
        key=lambda phase: (order.index(phase.stage), _KINDS.index(phase.kind)),
    )


def _shares(edges: Sequence[_Edge], length: int) -> dict[tuple[str, Kind], float]:
    """Each phase's part of the time; what nobody tells of is of the phase `other`, `GROUP`."""
    elapsed: dict[tuple[str, Kind], float] = {}
    active: dict[tuple[str, Kind], int] = {}
    reached = 0
    nobody = (_OTHER, Kind.GROUP)
    for at, phase, change in (*edges, _Edge(length, nobody, 0)):
        if at > reached:
            now = {each: count for each, count in active.items() if count} or {nobody: 1}
            total = sum(now.values())
            for each, count in now.items():
                elapsed[each] = elapsed.get(each, 0.0) + (at - reached) * count / total
            reached = at
        active[phase] = active.get(phase, 0) + change
    return elapsed
