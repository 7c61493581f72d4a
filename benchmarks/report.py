"""What the benchmarks share: a table for people, one JSON line for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import median, quantiles
from typing import NamedTuple

from rich.console import Console
from rich.table import Table


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
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    Console(width=120).print(table)


def print_json(values: Mapping[str, object]) -> None:
    """The last line of a benchmark."""
    print(json.dumps(values))
