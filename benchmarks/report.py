"""What the benchmarks share: a table for people, one JSON line for programs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

import torch

_RESULTS = Path(__file__).parent / "results"


class Spread(NamedTuple):
    """Median and interquartile range of a sample."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


def spread(values: Sequence[float]) -> Spread:
    """The spread of at least two values."""
    low, _, high = quantiles(values, n=4)
    return Spread(median(values), low, high)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under a title; numbers are aligned to the right."""
    # Here, as the GPU benchmark runs where no more is installed than it measures.
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    Console(width=120).print(table)


def print_json(values: Mapping[str, object]) -> None:
    """The last line of a benchmark."""
    print(json.dumps(values))


def device_name() -> str:
    """The machine as part of a file's name: `nvidia-h100-80gb-hbm3`, or `cpu-2-threads`."""
    if torch.cuda.is_available():
        return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
    return f"cpu-{torch.get_num_threads()}-threads"


def result_path(name: str, *, device: str, folder: Path | None = None) -> Path:
    """`<folder>/<name>-<YYYY-MM-DD>-<device>.json`, without a folder in that of the results."""
    return (folder or _RESULTS) / f"{name}-{date.today().isoformat()}-{device}.json"


def save_json(
    name: str, values: Mapping[str, object], *, device: str, folder: Path = _RESULTS
) -> Path:
    """Write a benchmark's values to `<folder>/<name>-<YYYY-MM-DD>-<device>.json`.

    The folder is made where missing; a file of the same day and device is replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = result_path(name, device=device, folder=folder)
    path.write_text(json.dumps(values, indent=2) + "\n")
    return path
