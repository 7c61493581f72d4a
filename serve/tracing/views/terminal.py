"""Terminal: a trace and lists of traces, as rich renders them. As wide as the terminal is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.bar import Bar
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from serve.tracing.views.format import duration, moment, share
from serve.tracing.views.row_text import counted
from serve.tracing.views.summary import TraceSummary
from serve.tracing.views.waterfall import TICK, Kind, Row, Waterfall

_GREY = "bright_black"
_COLOURS = {
    "queue": _GREY,
    "job": _GREY,
    "admit": _GREY,
    "encode": "cyan",
    "encode_image": "bright_blue",
    "denoise": "blue",
    "decode": "magenta",
    "safety": "yellow",
    "finish": "green",
    "store": "bright_cyan",
    "respond": _GREY,
    "ingress": _GREY,
    "transfer": _GREY,
    "other": _GREY,
}
_NEW_STAGE = "bright_magenta"
"""Of a stage that has no colour of its own."""
_FAILED = "red"
_LEAST_BAR = 10
_NAMES = (24, 60)
"""The names' column takes half of the width, but at least and at most so many characters."""


def trace_view(
    fall: Waterfall, summary: TraceSummary, *, width: int, ticks: bool = False
) -> RenderableType:
    """What was asked, where the time went, and the waterfall; with `ticks`, each of them."""
    return Group(_head(summary), Text(), _stages(fall), _rows(fall, width=width, ticks=ticks))


def traces_table(traces: Sequence[TraceSummary]) -> Table:
    """One row per trace."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("began (UTC)", "trace", "tenant", "asked for", "took", "deadline", "outcome"):
        is_fixed = name in ("began (UTC)", "trace", "took")
        justify = "right" if name == "took" else "left"
        table.add_column(name, no_wrap=is_fixed, overflow="fold", justify=justify)
    for trace in traces:
        table.add_row(
            moment(trace.started)[:19],
            trace.trace_id,
            _plain(trace.tenant or ""),
            _plain(_asked(trace)),
            duration(1e9 * trace.seconds),
            _deadline(trace),
            _outcome(trace),
        )
    return table


class _Span:
    """A row's bar, at least an eighth of a character wide."""

    def __init__(self, row: Row, length_ns: int) -> None:
        self._row = row
        self._length_ns = length_ns

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        row, width = self._row, options.max_width
        colour = _FAILED if row.error is not None else _COLOURS.get(row.stage, _NEW_STAGE)
        least = self._length_ns / width / 4
        begin = min(row.start_ns, self._length_ns - least)
        end = max(row.end_ns, begin + least)
        if row.kind is Kind.RUN and not options.ascii_only:
            yield Bar(self._length_ns, begin, end, color=colour)
            return
        first = int(begin / self._length_ns * width)
        last = max(first + 1, round(end / self._length_ns * width))
        mark = _mark(row.kind, ascii_only=options.ascii_only)
        yield Segment(" " * first)
        yield Segment(mark * (last - first), Style(color=colour, dim=row.kind is Kind.GROUP))
        yield Segment.line()


def _mark(kind: Kind, *, ascii_only: bool) -> str:
    unicode, ascii = {
        Kind.GROUP: ("─", "-"),
        Kind.WAIT: ("░", ":"),
        Kind.PAUSED: ("┄", "."),
        Kind.TICK: ("▪", "+"),
        Kind.RUN: ("█", "#"),
    }[kind]
    return ascii if ascii_only else unicode


def _head(summary: TraceSummary) -> Text:
    line = Text.assemble(
        _outcome(summary),
        "  ",
        (_plain_text(_asked(summary)), "bold"),
        "  ",
        (duration(1e9 * summary.seconds), "bold"),
    )
    if summary.deadline_ms is not None:
        line.append("  deadline ").append_text(_deadline(summary))
    line.append(f"\n{moment(summary.started)}  trace {summary.trace_id}", _GREY)
    if summary.queued_seconds is not None:
        line.append(f"  in the queue {duration(1e9 * summary.queued_seconds)}", _GREY)
    for says, value in (("request", summary.request_id), ("tenant", summary.tenant)):
        if value:
            line.append(f"  {says} {_plain_text(value)}", _GREY)
    return line


def _stages(fall: Waterfall) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("stage")
    for name in ("working", "waiting", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in fall.stages():
        table.add_row(
            Text(stage.stage, _COLOURS.get(stage.stage, _NEW_STAGE)),
            duration(stage.worked_ns) if stage.worked_ns else "",
            duration(stage.waited_ns) if stage.waited_ns else "",
            share(stage.elapsed_ns, fall.length_ns),
        )
    return table


def _rows(fall: Waterfall, *, width: int, ticks: bool) -> Table:
    names = max(_NAMES[0], min(_NAMES[1], width // 2))
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(width=names, no_wrap=True, overflow="ellipsis")
    table.add_column(width=8, justify="right", no_wrap=True)
    table.add_column(ratio=1, min_width=_LEAST_BAR, no_wrap=True)
    for row in _shown(fall.rows, ticks=ticks):
        table.add_row(_label(row), Text(duration(row.length_ns), _GREY), _Span(row, fall.length_ns))
        for trace_id in row.shared_with:
            table.add_row(Text(f"{'  ' * row.depth}  with {trace_id}", _GREY))
    return table


def _shown(rows: Iterable[Row], *, ticks: bool) -> list[Row]:
    return [row for row in rows if ticks or row.name != TICK]


def _label(row: Row) -> Text:
    failed = row.error is not None
    style = _FAILED if failed else "bold" if row.kind is Kind.GROUP else ""
    label = Text("  " * row.depth).append(_plain_text(row.name), style)
    if row.detail:
        label.append(f" {_plain_text(row.detail)}", _GREY)
    if row.error is not None:
        label.append(f" {_plain_text(row.error)}", _FAILED)
    return label


def _asked(trace: TraceSummary) -> str:
    images = counted(trace.images, "image") if trace.images else ""
    return " ".join(filter(None, (images, trace.size, trace.model)))


def _deadline(trace: TraceSummary) -> Text:
    if trace.deadline_ms is None:
        return Text()
    text = Text(duration(1e6 * trace.deadline_ms))
    if (result := trace.deadline_result) is None:
        return text
    return text.append(f" {result}", "green" if result == "met" else _FAILED)


def _outcome(trace: TraceSummary) -> Text:
    says = _plain_text(f"{trace.status or ''} {trace.outcome}".strip())
    text = Text(says, _FAILED if trace.has_failed else "green")
    return text if trace.error is None else text.append(f" {_plain_text(trace.error)}", _FAILED)


def _plain(text: str) -> Text:
    return Text(_plain_text(text))


def _plain_text(text: str) -> str:
    """Without what would move the cursor or change colours: the text is somebody else's."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)
