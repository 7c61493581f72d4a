"""Excerpt: what of a trace fits on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipelines.tracing.spans import Span
from serve.tracing.job_spans import JOB
from serve.tracing.recorder import Trace

MAX_ROWS = 2500
"""Spans that one page draws, which takes a second or so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Excerpt:
    """Requests of a trace, in order, and how much of it is left out."""

    traces: tuple[Trace, ...]
    left_out_requests: int = 0
    left_out_spans: int = 0


def excerpt(traces: Sequence[Trace], max_spans: int = MAX_ROWS) -> Excerpt:
    """The latest of these requests that have `max_spans` spans together.

    If the latest alone has more, its first ones: parents before their parts. Half of the room is
    first for jobs' own spans.
    """
    jobs = [trace for trace in traces if trace.root.name == JOB]
    parts = [trace for trace in traces if trace.root.name != JOB]
    if jobs and parts:
        wholes = excerpt(jobs, max_spans // 2)
        shown = excerpt(parts, max_spans - sum(trace.num_spans for trace in wholes.traces))
        return Excerpt(
            traces=(*wholes.traces, *shown.traces),
            left_out_requests=wholes.left_out_requests + shown.left_out_requests,
            left_out_spans=wholes.left_out_spans + shown.left_out_spans,
        )
    latest = traces[-1]
    if latest.num_spans > max_spans:
        root, _ = _first(latest.root, max_spans)
        return Excerpt(
            traces=(replace(latest, root=root),),
            left_out_requests=len(traces) - 1,
            left_out_spans=latest.num_spans - max_spans,
        )
    room, chosen = max_spans, 0
    for trace in reversed(traces):
        room -= trace.num_spans
        if room < 0:
            break
        chosen += 1
    return Excerpt(traces=tuple(traces[-chosen:]), left_out_requests=len(traces) - chosen)


def _first(span: Span, room: int) -> tuple[Span, int]:
    """The span with its first parts, `room` spans in all at most, and the room that is left."""
    room -= 1
    children: list[Span] = []
    for child in span.children:
        if room == 0:
            break
        part, room = _first(child, room)
        children.append(part)
    return replace(span, children=tuple(children)), room
