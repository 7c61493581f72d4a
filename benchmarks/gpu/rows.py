"""What is measured, row by row: printed for people when it is there, and saved for programs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks.alternation import Timing
from benchmarks.gpu.clock import Clock

_COLUMNS = (
    *("way", "ms", "quartiles", "host ms", "first/this"),
    *("of peak", "first s", "GiB", "difference"),
)
_WIDTHS = (46, 9, 19, 8, 10, 8, 8, 6, 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way of one case, or the reason why it has no figures.

    `ms` is the median by the device's clock, `low_ms` and `high_ms` the quartiles, `host_ms` the
    median time until the call returned. `ratio` is the case's first way over this one, in the same
    rounds; `share_of_peak` the step's arithmetic at the device's peak in
    bfloat16 over its time; `at_s` seconds
    since the process began. The others are as in `alternation.Timing`; `values` are figures that
    are no times.
    """

    group: str
    case: str
    way: str
    ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    host_ms: float | None = None
    rounds: int = 0
    ratio: float | None = None
    share_of_peak: float | None = None
    first_s: float | None = None
    peak_gib: float | None = None
    difference: float | None = None
    same_bits: bool | None = None
    values: Mapping[str, float | str] = field(default_factory=dict)
    failure: str | None = None
    skipped: str | None = None
    at_s: float = 0.0


def row_of(timing: Timing, *, peak_ms: float | None, **names: Any) -> Row:
    """A timing as a row; a step at the device's peak would take `peak_ms`."""
    common = {
        **names,
        "first_s": timing.first_s,
        "peak_gib": timing.peak_gib,
        "difference": timing.difference,
        "same_bits": timing.same_bits,
        "failure": timing.failure,
        "skipped": timing.skipped,
    }
    if timing.failure or timing.skipped or not timing.ms:
        return Row(**common)
    # Within what was seen, however few the rounds; of a single one, all three are the same.
    seen = timing.ms * 2 if len(timing.ms) == 1 else timing.ms
    low, middle, high = quantiles(seen, n=4, method="inclusive")
    return Row(
        **common,
        ms=middle,
        low_ms=low,
        high_ms=high,
        host_ms=median(timing.host_ms),
        rounds=len(timing.ms),
        ratio=timing.ratio,
        share_of_peak=peak_ms / middle if peak_ms else None,
    )


class Report:
    """Rows in order, on the screen and in `path`, which is replaced as a whole with each."""

    def __init__(self, path: Path | None, about: Mapping[str, Any], clock: Clock) -> None:
        self._path, self._about, self._clock = path, about, clock
        self._rows: list[Row] = []
        self._title = ""

    def add(self, row: Row) -> None:
        """Print and save a row."""
        self._rows.append(row)
        title = f"{row.group}: {row.case}"
        if title != self._title:
            print(f"\n{title}  [{self._clock.now():.0f} s]\n{_line(_COLUMNS)}")
            self._title = title
        print(_line(_cells(row)), flush=True)
        self._save(is_complete=False)

    def end(self) -> dict[str, Any]:
        """Say that nothing more will come; the whole, for the last line."""
        self._save(is_complete=True)
        return self._summary(is_complete=True)

    def _summary(self, *, is_complete: bool) -> dict[str, Any]:
        return {
            **self._about,
            "budget_s": self._clock.budget_s,
            "seconds": round(self._clock.now(), 1),
            "is_complete": is_complete,
            "rows": [_brief(row) for row in self._rows],
        }

    def _save(self, *, is_complete: bool) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".part")
        partial.write_text(json.dumps(self._summary(is_complete=is_complete), indent=1) + "\n")
        os.replace(partial, self._path)  # so that a reader never finds half of it


def _brief(row: Row) -> dict[str, Any]:
    """Without what is not known."""
    values = asdict(row)
    return {
        each.name: values[each.name]
        for each in fields(Row)
        if each.name in ("group", "case", "way") or values[each.name] not in (None, {}, 0)
    }


def _cells(row: Row) -> tuple[str, ...]:
    if row.failure or row.skipped:
        return (row.way, row.failure or f"skipped: {row.skipped}")
    figures = ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in row.values.items()
    )
    if row.ms is None:
        return (row.way, figures)
    difference = "same bits" if row.same_bits else _format(row.difference, ".1e")
    cells = (
        row.way,
        _format(row.ms, ".3f" if row.ms < 1 else ".2f"),
        f"{row.low_ms:.2f} to {row.high_ms:.2f}",
        _format(row.host_ms, ".2f"),
        _format(row.ratio, ".2f"),
        "" if row.share_of_peak is None else f"{100 * row.share_of_peak:.0f} %",
        _format(row.first_s, ".2f"),
        _format(row.peak_gib, ".1f"),
        difference,
    )
    return (*cells, figures) if figures else cells


def _format(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)


def _line(cells: tuple[str, ...]) -> str:
    """The first column to the left, numbers to the right, a last one that is longer as it is."""
    first, *rest = cells
    widths = _WIDTHS[1 : 1 + len(rest)]
    padded = [cell.rjust(width) for cell, width in zip(rest, widths, strict=False)]
    return "  ".join([first.ljust(_WIDTHS[0]), *padded, *rest[len(widths) :]]).rstrip()
