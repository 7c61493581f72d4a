"""Figures of the notebooks: pictures in rows, phases as bars, ticks as packed blocks.

Draws what it is given, and knows neither model nor server. Each function returns the figure, which
a notebook shows at the end of its cell.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

if TYPE_CHECKING:
    from pipelines.stages.trajectory import Trajectory
    from review import Node

BETWEEN, HTTP = "between stages", "HTTP, ingress"
"""The time of an answer that is no stage's: calls from one to the next, and all outside of them."""

_PALETTE = [plt.get_cmap("tab10")(index) for index in range(10)]
_STAGES = ("encode", "denoise", "decode", "safety", "finish", "store", "cold_start")
_PHASES = {
    **dict(zip(_STAGES, _PALETTE, strict=False)),
    "waits": "0.5",
    BETWEEN: "0.72",
    HTTP: "0.86",
}
_TEXT_ALPHA = 0.35
_WIDEST = 12.0


class Block(NamedTuple):
    """One segment in a packed batch: whose, the step that it takes, and its tokens."""

    name: str
    step: int
    text: int
    image: int


def blocks_of(trajectory: Trajectory) -> list[Block]:
    """The segments with which a trajectory takes its next step."""
    name, step = trajectory.job.work_id, trajectory.step + 1
    return [Block(name, step, *segment.shape) for segment in trajectory.segments]


def packed_blocks(
    ticks: Sequence[Sequence[Block]], *, starts_ms: Sequence[float] | None = None
) -> Figure:
    """A row for each tick, the first on top: its segments along the packed axis, by request."""
    figure, axes = plt.subplots(figsize=(9, 0.9 + 0.3 * len(ticks)), layout="constrained")
    colours = _colours(ticks)
    for row, tick in enumerate(ticks):
        at = 0
        for block in tick:
            _piece(axes, row, at, block.text, colours[block.name], alpha=_TEXT_ALPHA)
            _piece(axes, row, at + block.text, block.image, colours[block.name])
            label = f"{block.name}{block.step}"
            axes.text(at + block.text + block.image / 2, row, label, **_LABEL)
            at += block.text + block.image
    rows = range(len(ticks))
    if starts_ms is None:
        axes.set_yticks(rows, [str(row + 1) for row in rows])
        axes.set_ylabel("tick")
    else:
        axes.set_yticks(rows, [f"{start:.0f} ms" for start in starts_ms])
        axes.set_ylabel("tick, by its start")
    axes.invert_yaxis()
    axes.set_xlabel("tokens, as they are packed")
    _legend(axes, colours)
    return figure


def stream_blocks(ticks: Sequence[Sequence[Block]], *, number: int) -> Figure:
    """The tokens of tick `number` (from 1) in two orders: of linear layers, and of attention."""
    figure, axes = plt.subplots(figsize=(9, 1.9), layout="constrained")
    tick = ticks[number - 1]
    colours = _colours(ticks, shown={block.name for block in tick})
    at = 0
    for kind, alpha in (("text", _TEXT_ALPHA), ("image", 1.0)):
        for block in tick:
            tokens: int = getattr(block, kind)
            _piece(axes, 0, at, tokens, colours[block.name], alpha=alpha)
            at += tokens
    axes.broken_barh([(0, at)], (-0.4, 0.8), facecolor="none", edgecolor="black", linewidth=1.5)
    at = 0
    for block in tick:
        _piece(axes, 1, at, block.text, colours[block.name], alpha=_TEXT_ALPHA)
        _piece(axes, 1, at + block.text, block.image, colours[block.name])
        whole = (at, block.text + block.image)
        axes.broken_barh([whole], (0.6, 0.8), facecolor="none", edgecolor="black", linewidth=1.5)
        at += sum(whole[1:])
    axes.set_yticks([0, 1], ["linear layers:\none matrix", "attention:\ninside a frame"])
    axes.invert_yaxis()
    axes.set_xlabel("tokens")
    _legend(axes, colours)
    return figure


def picture_rows(
    rows: Sequence[Sequence[Any]],
    *,
    titles: Sequence[Sequence[str | None]],
    names: Sequence[str] = (),
    height: float = 1.6,
) -> Figure:
    """Pictures (None: a gap) in rows of equal length with their titles, up to `height` inches."""
    columns = max(len(row) for row in rows)
    width = min(1.3 * height, _WIDEST / columns)
    size = (width * columns, (width / 1.3 + 0.4) * len(rows))
    figure, grid = plt.subplots(
        len(rows), columns, figsize=size, squeeze=False, layout="constrained"
    )
    for axes_row, pictures, texts in zip(grid, rows, titles, strict=True):
        for axes, picture, text in zip(axes_row, pictures, texts, strict=True):
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color("0.8")
            axes.spines[:].set_visible(picture is not None)
            if picture is not None:
                axes.imshow(picture, interpolation="nearest")
                axes.set_title(text, fontsize=8)
    for axes_row, name in zip(grid, names, strict=False):
        axes_row[0].text(-0.12, 0.5, name, transform=axes_row[0].transAxes, ha="right", va="center")
    return figure


def read_server_timing(header: str, *, total_s: float) -> dict[str, float]:
    """Milliseconds by phase from a `server-timing` header, in the order of the stages.

    `total_s` is what the client waited; what no stage accounts for is `BETWEEN` and `HTTP`.
    """
    phases: dict[str, float] = {}
    for item in header.split(","):
        name, _, milliseconds = item.strip().partition(";dur=")
        phases[name] = float(milliseconds)
    inside = phases.pop("total")
    waits = sum(phases.pop(f"{stage}_wait", 0.0) for stage in _STAGES)
    ran = {stage: phases[stage] for stage in _STAGES if stage in phases}
    between = max(0.0, inside - waits - sum(ran.values()))
    return {**ran, "waits": waits, BETWEEN: between, HTTP: max(0.0, 1e3 * total_s - inside)}


def phase_bars(timings: Mapping[str, Mapping[str, float]]) -> Figure:
    """A bar for each request: milliseconds of its phases, summed up from left to right."""
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.5 * len(timings)), layout="constrained")
    for row, phases in enumerate(timings.values()):
        at = 0.0
        for phase, milliseconds in phases.items():
            axes.barh(row, milliseconds, left=at, color=_PHASES[phase], edgecolor="white")
            at += milliseconds
        axes.text(at, row, f" {at:.0f} ms", va="center")
    axes.set_yticks(range(len(timings)), list(timings))
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds")
    axes.set_xlim(0, 1.15 * max(sum(phases.values()) for phases in timings.values()))
    seen = {phase for phases in timings.values() for phase in phases}
    patches = [Patch(color=colour, label=name) for name, colour in _PHASES.items() if name in seen]
    axes.legend(handles=patches, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def waterfall(root: Node, *, title: str) -> Figure:
    """A bar for each span of a request from a millisecond on, parts indented below the whole.

    Ticks are left out.
    """
    walked = [(depth, node) for depth, node in root.walk() if node.seconds >= 1e-3]
    rows = [(depth, node) for depth, node in walked if node.name != "tick"]
    figure, axes = plt.subplots(figsize=(9, 0.9 + 0.22 * len(rows)), layout="constrained")
    for row, (_, node) in enumerate(rows):
        start_ms, width_ms = 1e3 * (node.start_s - root.start_s), 1e3 * node.seconds
        axes.barh(row, max(width_ms, 0.5), left=start_ms, color=_span_colour(node.name))
        axes.text(start_ms + width_ms, row, f" {width_ms:.0f}", va="center", fontsize=7)
    names = ["    " * depth + node.name for depth, node in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=8, ha="left")
    axes.tick_params(axis="y", pad=130, length=0)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds since the request came")
    axes.set_title(title)
    return figure


def path_bars(paths: Mapping[str, Mapping[str, float]]) -> Figure:
    """A bar for each request: seconds of its critical path, by kind of span."""
    figure, axes = plt.subplots(figsize=(9, 1.0 + 0.26 * len(paths)), layout="constrained")
    seen = {_kind(name) for path in paths.values() for name in path}
    kinds = [kind for kind in _SPANS if kind in seen]
    for row, path in enumerate(paths.values()):
        at = 0.0
        for kind in kinds:
            seconds = sum(value for name, value in path.items() if _kind(name) == kind)
            axes.barh(row, seconds, left=at, color=_SPANS[kind])
            at += seconds
    axes.set_yticks(range(len(paths)), list(paths), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("seconds on the critical path")
    patches = [Patch(color=_SPANS[kind], label=kind) for kind in kinds]
    axes.legend(handles=patches, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def matrix(
    delays: Mapping[tuple[str, str], float], *, rows: Sequence[str], columns: Sequence[str]
) -> Figure:
    """Seconds that the request of each row waited for that of each column, as shades."""
    cells = [[delays.get((row, column), 0.0) for column in columns] for row in rows]
    figure, axes = plt.subplots(figsize=(7.5, 6), layout="constrained")
    image = axes.imshow(cells, cmap="Oranges")
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.set(xlabel="... while this was stepped", ylabel="this waited ...")
    figure.colorbar(image, label="seconds", shrink=0.8)
    return figure


_SPANS = {
    "encode": _PALETTE[0],
    "denoise.wait": "0.35",
    "denoise.paused": "0.55",
    "denoise.run": _PALETTE[1],
    "decode": _PALETTE[2],
    "safety": _PALETTE[3],
    "finish, store": _PALETTE[4],
    "transfer": "0.75",
    "ingress and others": "0.88",
}
"""Colours of the kinds of spans, in the order in which they follow one another."""


def _kind(name: str) -> str:
    if name in _SPANS:
        return name
    stage = name.partition(".")[0]
    if name in ("finish.wait", "finish.run", "store"):
        return "finish, store"
    return stage if stage in _SPANS and stage != name else "ingress and others"


def _span_colour(name: str) -> Any:
    return _SPANS[_kind(name)]


_LABEL: dict[str, Any] = {"ha": "center", "va": "center", "color": "white", "fontsize": 8}


def _piece(
    axes: Axes, row: int, at: int, tokens: int, colour: object, *, alpha: float = 1.0
) -> None:
    axes.barh(row, tokens, left=at, height=0.8, color=colour, alpha=alpha, edgecolor="white")


def _colours(
    ticks: Sequence[Sequence[Block]], *, shown: Collection[str] | None = None
) -> dict[str, Any]:
    """By request, in the order in which they come; only of those `shown`, if given."""
    names = dict.fromkeys(block.name for tick in ticks for block in tick)
    colours = dict(zip(names, cycle(_PALETTE), strict=False))
    return {name: colours[name] for name in names if shown is None or name in shown}


def _legend(axes: Axes, colours: Mapping[str, Any]) -> None:
    patches = [Patch(color=colour, label=name) for name, colour in colours.items()]
    patches.append(Patch(color="0.4", alpha=_TEXT_ALPHA, label="text"))
    patches.append(Patch(color="0.4", label="image"))
    axes.legend(handles=patches, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
