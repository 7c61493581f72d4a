"""The time lines of several sides as one picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.autoscaling.timeline import Fate, Sample, met, met_over_time

_WINDOW_S = 10.0


class Line(NamedTuple):
    """One side's run."""

    samples: Sequence[Sample]
    fates: Sequence[Fate]


def draw(lines: Mapping[str, Line], offered: Callable[[float], float], path: Path) -> None:
    """A column for each side: replicas and machines, work that waits, deadlines met."""
    figure = Figure(figsize=(6 * len(lines), 8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, len(lines), sharex=True, sharey="row", squeeze=False)
    for column, (name, line) in enumerate(lines.items()):
        top, middle, bottom = (axes[row][column] for row in range(3))
        top.set_title(name)
        _replicas(top, line.samples, offered)
        times = [sample.at_s for sample in line.samples]
        middle.fill_between(times, [sample.queued_s for sample in line.samples], alpha=0.5)
        _met(bottom, line, until_s=times[-1])
    for row, label in enumerate(("number", "work not done, s of one replica", "deadlines met")):
        axes[row][0].set_ylabel(label)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _replicas(axes: Axes, samples: Sequence[Sample], offered: Callable[[float], float]) -> None:
    times = [sample.at_s for sample in samples]
    # The first request is work of a second, which no rate describes.
    axes.plot(times, [offered(at_s) for at_s in times], "k:", label="offered, replicas' worth")
    axes.step(times, [item.machines for item in samples], where="post", label="machines")
    axes.step(times, [item.replicas for item in samples], where="post", label="replicas")
    axes.fill_between(
        times, [item.running for item in samples], step="post", alpha=0.3, label="running"
    )


def _met(axes: Axes, line: Line, *, until_s: float) -> None:
    points = met_over_time(line.fates, window_s=_WINDOW_S, until_s=until_s)
    axes.bar(
        [at_s for at_s, _ in points],
        [100 * share for _, share in points],
        width=0.9 * _WINDOW_S,
        alpha=0.6,
    )
    axes.set_ylim(0, 100)
    axes.set_xlabel(f"seconds; by time of sending; {met(line.fates):.0%} in all")
