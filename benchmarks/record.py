"""What became of every request of an open-loop run, in a file that grows run by run.

A run that was cut off goes on from its file; another benchmark can replay the same arrivals.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.solo import SoloTimes
from benchmarks.trace import Arrival


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One request and its fate: `status` is HTTP's, 0 without an answer.

    `encodes` are the prompts that were encoded for it.
    """

    arrival: Arrival
    latency_s: float
    status: int
    images: int
    encodes: float

    @property
    def is_ok(self) -> bool:
        """Whether all of its images came."""
        return self.status == 200 and self.images == self.arrival.n

    @property
    def is_met(self) -> bool:
        """Whether they came in time."""
        return self.is_ok and self.latency_s <= self.arrival.deadline_s


class Cell(NamedTuple):
    """One run: which server, under which load, with which arrivals."""

    side: str
    load: float
    seed: int


class Summary(NamedTuple):
    """Of one or several runs of a side at a load; latencies are those of answered requests."""

    met: float
    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    images_per_s: float
    encodes_per_image: float
    steps_run: int
    requests: int
    failed: int


def summary(runs: Sequence[Sequence[Served]]) -> Summary:
    """All requests of `runs` together. A request that failed is a miss, and has no latency.

    Images per second are those served between a run's first arrival and its last answer.
    """
    served = [item for run in runs for item in run]
    good = [item for item in served if item.is_ok]
    latencies = np.array([item.latency_s for item in good] or [float("nan")])
    p50, p95, p99 = (float(value) for value in np.percentile(latencies, [50, 95, 99]))
    images = sum(item.images for item in good)
    seconds = sum(max(item.arrival.at_s + item.latency_s for item in run) for run in runs)
    return Summary(
        met=sum(item.is_met for item in served) / len(served),
        mean_s=float(latencies.mean()),
        p50_s=p50,
        p95_s=p95,
        p99_s=p99,
        images_per_s=images / seconds,
        encodes_per_image=sum(item.encodes for item in good) / max(images, 1),
        steps_run=sum(item.arrival.steps * item.images for item in good),
        requests=len(served),
        failed=len(served) - len(good),
    )


class Record:
    """The file: `settings` of the whole, solo times and capacity once measured, the runs so far.

    Raises ValueError when the file was made with other settings: its runs cannot be compared.
    """

    def __init__(self, path: Path, settings: Mapping[str, object]) -> None:
        self._path = path
        self._values: dict[str, Any] = {
            "settings": dict(settings),
            "solo": None,
            "capacity": None,
            "runs": [],
        }
        if path.exists():
            found = json.loads(path.read_text())
            if found["settings"] != self._values["settings"]:
                raise ValueError(
                    f"{path} was made with {found['settings']}, not {dict(settings)}:"
                    " name another file"
                )
            self._values = found
        self.runs: dict[Cell, list[Served]] = {
            Cell(run["side"], run["load"], run["seed"]): [_served(row) for row in run["requests"]]
            for run in self._values["runs"]
        }

    @property
    def solo(self) -> SoloTimes | None:
        """The solo times of this record; None as long as none were measured."""
        rows = self._values["solo"]
        return None if rows is None else SoloTimes.from_json(rows)

    def set_solo(self, solo: SoloTimes) -> None:
        """Keep the solo times."""
        self._values["solo"] = solo.to_json()
        self._write()

    @property
    def capacity(self) -> float | None:
        """Load 1.0 in solo seconds per second; None as long as it was not measured."""
        return self._values["capacity"]

    def set_capacity(self, capacity: float) -> None:
        """Keep what load 1.0 is."""
        self._values["capacity"] = capacity
        self._write()

    def add(self, cell: Cell, served: Sequence[Served]) -> None:
        """Keep a run."""
        self.runs[cell] = list(served)
        requests = [asdict(item) for item in served]
        self._values["runs"].append({**cell._asdict(), "requests": requests})
        self._write()

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self._values))
        partial.replace(self._path)


def _served(row: Mapping[str, Any]) -> Served:
    return Served(**{**row, "arrival": Arrival(**row["arrival"])})
