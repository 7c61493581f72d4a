"""What a profile says in a few lines: the ticks in it, and which operators took their time.

Reads the trace that the denoiser wrote, in this process: there, parsing it would hold up images.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from pipelines.errors import StageFailed

_ON_CPU = {"cpu_op", "user_annotation", "cuda_runtime", "cuda_driver"}
_ON_DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}
_MARK = "user_annotation"
_TICK = "tick "


@dataclass(slots=True)
class Cost:
    """What an operator took itself, in microseconds, without what it called."""

    calls: int = 0
    cpu_us: float = 0.0
    device_us: float = 0.0


class ProfileSummary(NamedTuple):
    """`tick_us` of each tick, and the costs by name: of operators, and of the engine's phases.

    Those of a phase are what it took outside of operators, which is Python.
    """

    tick_us: tuple[float, ...]
    costs: Mapping[str, Cost]

    def top(self, count: int) -> list[tuple[str, Cost]]:
        """The costliest, by the device's time if it has any part, else by the CPU's."""
        on_device = any(cost.device_us for cost in self.costs.values())
        ranked = sorted(
            self.costs.items(),
            key=lambda item: item[1].device_us if on_device else item[1].cpu_us,
            reverse=True,
        )
        return ranked[:count]


class _Slice(NamedTuple):
    name: str
    category: str
    thread: tuple[object, object]
    start_us: float
    end_us: float
    external_id: int | None

    @classmethod
    def read(cls, event: Mapping[str, Any]) -> _Slice:
        start = float(event["ts"])
        return cls(
            name=str(event["name"]),
            category=str(event.get("cat", "")),
            thread=(event["pid"], event["tid"]),
            start_us=start,
            end_us=start + float(event["dur"]),
            external_id=event.get("args", {}).get("External id"),
        )

    @property
    def is_tick(self) -> bool:
        return self.category == _MARK and self.name.startswith(_TICK)

    @property
    def label(self) -> str:
        """The name to add its cost up under."""
        if self.category != _MARK:
            return self.name
        return (
            "tick, outside of operators" if self.is_tick else f"{self.name}, outside of operators"
        )


def summarise_profile(trace: bytes) -> ProfileSummary:
    """Sums up a trace, gzipped JSON. Raises StageFailed if it is none."""
    try:
        content: Any = json.loads(gzip.decompress(trace))
        events = cast("Sequence[Mapping[str, Any]]", content["traceEvents"])
        slices = [_Slice.read(event) for event in events if event.get("ph") == "X"]
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise StageFailed(f"the profile is no trace: {error}", stage="Denoiser") from error
    costs: dict[str, Cost] = defaultdict(Cost)
    _add_cpu(costs, [each for each in slices if each.category in _ON_CPU])
    _add_device(costs, slices)
    ticks = sorted((each.start_us, each.end_us) for each in slices if each.is_tick)
    return ProfileSummary(tuple(end - start for start, end in ticks), dict(costs))


def _add_cpu(costs: dict[str, Cost], slices: Iterable[_Slice]) -> None:
    """Each slice's time without that of those inside it, which began after it on its thread."""
    open_slices: list[_Slice] = []
    for each in sorted(slices, key=lambda each: (str(each.thread), each.start_us, -each.end_us)):
        while open_slices and not _holds(open_slices[-1], each):
            open_slices.pop()
        took = each.end_us - each.start_us
        if open_slices:
            costs[open_slices[-1].label].cpu_us -= took
        costs[each.label].cpu_us += took
        costs[each.label].calls += 1
        open_slices.append(each)


def _holds(outer: _Slice, inner: _Slice) -> bool:
    return outer.thread == inner.thread and inner.start_us < outer.end_us


def _add_device(costs: dict[str, Cost], slices: Sequence[_Slice]) -> None:
    """Kernels count for the operator that launched them; those of none for themselves."""
    launchers = {each.external_id: each.label for each in slices if each.category == "cpu_op"}
    for each in slices:
        if each.category in _ON_DEVICE:
            known = each.external_id is not None and each.external_id in launchers
            label = launchers[each.external_id] if known else each.name
            costs[label].device_us += each.end_us - each.start_us
            costs[label].calls += 0 if known else 1
