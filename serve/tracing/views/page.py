"""Pages: a trace as a waterfall, and the list of recent ones, each a single file of HTML.

Nothing is fetched from anywhere: style and script stand in the page, and its policy allows these
two alone, by their hashes. Without the script the waterfall is a list with its bars. Links are
relative, `/traces` and `/v1/traces/{id}` beside each other, so that a prefix before both does not
matter.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from serve.csp import hash_source
from serve.icon import data_url
from serve.tracing.views.format import duration, moment, share, short
from serve.tracing.views.otlp_reader import read_spans
from serve.tracing.views.row_text import counted
from serve.tracing.views.subject import subject_of
from serve.tracing.views.summary import TraceFilters, TraceSummary, summarise
from serve.tracing.views.waterfall import TICK, Phase, Waterfall, waterfall

_CLOSED = ("denoise.run", TICK)
"""Names of rows that are closed at first."""

_AXIS_MARKS = 6

_ASKED = {
    "sluice.steps": "steps",
    "gen_ai.request.seed": "seed",
    "sluice.seed": "seed",
    "sluice.attempts": "attempts",
    "sluice.priority": "priority",
    "sluice.cache": "cache",
    "gen_ai.usage.input_tokens": "text tokens",
    "gen_ai.usage.output_tokens": "image tokens",
}
"""Attributes of the request in the page's head, by what they are called there; never a prompt."""


class _Piece(NamedTuple):
    """A phase in the bar of all of them, from `begin` on."""

    stage: str
    kind: str
    label: str
    begin: float
    elapsed_ns: float


def trace_page(
    otlp: Mapping[str, object], *, left_out_requests: int = 0, left_out_spans: int = 0
) -> str:
    """The page of a trace in OTLP's JSON, and how much of it is not on it. Raises NotATrace."""
    fall = waterfall(otlp)
    axis = axis_marks(fall.length_ns)

    def at(nanoseconds: float) -> str:
        return f"{100 * nanoseconds / fall.length_ns:.5g}%"

    return render(
        "trace.html",
        at=at,
        fall=fall,
        left_out_requests=left_out_requests,
        left_out_spans=left_out_spans,
        summary=summarise(otlp),
        asked=_asked(otlp),
        pieces=_pieces(fall.phases),
        stages=fall.stages(),
        axis=axis,
        by_id={row.span_id: row for row in fall.rows},
        closes=_closes(fall),
        closed=_CLOSED,
        script=Markup(_asset("trace.js")),
    )


def list_page(traces: Sequence[TraceSummary], filters: TraceFilters) -> str:
    """The page of these traces, in their order, with the filters that chose them."""
    longest = max((trace.seconds for trace in traces), default=0.0)
    return render("traces.html", traces=traces, filters=filters, longest=longest or 1.0)


@functools.cache
def content_security_policy() -> str:
    """The policy of both pages; each also has it in itself."""
    style, script = hash_source(_asset("page.css")), hash_source(_asset("trace.js"))
    return (
        f"default-src 'none'; style-src {style}; script-src {script}; img-src data:; "
        "base-uri 'none'; form-action 'self'"
    )


def axis_marks(length_ns: int) -> list[float]:
    """Round times for a time axis of this length: about six, by 1, 2 or 5 times a power of ten."""
    least = length_ns / _AXIS_MARKS
    power = 10 ** (len(str(int(least))) - 1)
    step = next((power * by for by in (1, 2, 5, 10) if power * by >= least), power * 10)
    return [mark * step for mark in range(int(length_ns / step) + 1)]


def _closes(fall: Waterfall) -> list[int]:
    """For each row without parts: how many lists end with it."""
    depths = [row.depth for row in fall.rows] + [0]
    return [here - after for here, after in itertools.pairwise(depths)]


def _pieces(phases: Sequence[Phase]) -> list[_Piece]:
    found: list[_Piece] = []
    begin = 0.0
    for stage, kind, elapsed in phases:
        label = stage if kind == "run" else f"{stage}, {kind}"
        found.append(_Piece(stage, kind, label, begin, elapsed))
        begin += elapsed
    return found


def _asked(otlp: Mapping[str, object]) -> list[tuple[str, str]]:
    facts = subject_of(read_spans(otlp)).plain()
    found = {says: facts[name] for name, says in _ASKED.items() if name in facts}
    return [
        (says, str(value) if says == "seed" or not isinstance(value, int) else f"{value:,}")
        for says, value in found.items()
    ]


def render(template: str, **context: object) -> str:
    """A page from one of the templates beside this module."""
    return (
        _environment()
        .get_template(template)
        .render(
            policy=content_security_policy(),
            icon=data_url(),
            style=Markup(_asset("page.css")),
            **context,
        )
    )


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("serve.tracing.views"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {  # pyright: ignore[reportUnknownMemberType]
        "duration": duration,
        "seconds": _seconds,
        "share": share,
        "moment": moment,
        "short": short,
        "counted": counted,
        "of": _of,
    }
    return environment


def _seconds(seconds: float) -> str:
    return duration(1e9 * seconds)


def _of(part: float, whole: float) -> str:
    return f"{100 * part / whole:.4g}%"


@functools.cache
def _asset(name: str) -> str:
    environment = _environment()
    assert environment.loader is not None
    source, _, _ = environment.loader.get_source(environment, name)
    return source
