"""Counters, gauges and histograms: from values of ours to Ray's, which each node exports.

An instrument of Ray's is made with the first value, in the replica that has it, so that Serve's
labels (deployment, replica, application) are on it. Outside of a replica, as in Serve's local
testing mode, values go nowhere. What there is to record is declared in `declared.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import ray.serve
import ray.serve.metrics
from ray.serve.exceptions import RayServeException

MAX_TENANTS = 50
"""Names of tenants that one process uses as labels; clients may choose them, so they are bounded.
Those that come later are "other"."""

_MAX_TENANT_CHARS = 64
NO_TENANT, OTHER_TENANTS = "none", "other"
"""The labels of those without a name, and of those beyond the bound."""

Record = Callable[[float, dict[str, str]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric as it is declared: `name` in base units, `labels` besides Serve's own."""

    kind: ClassVar[str]
    name: str
    labels: tuple[str, ...] = ()
    where: str
    """Who records it: the class of a deployment, or "stages" for each of them."""
    help: str

    @property
    def exposed(self) -> str:
        """The name at a node's endpoint; of a histogram without `_bucket`, `_sum`, `_count`."""
        return f"ray_{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter(Metric):
    """Only grows."""

    kind: ClassVar[str] = "counter"

    @property
    def exposed(self) -> str:
        return f"ray_{self.name}_total"

    def add(self, value: float = 1, **labels: str) -> None:
        """Count on by `value`; nothing happens if it is 0."""
        if value > 0:
            record(self, value, labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge(Metric):
    """Is what it was set to last."""

    kind: ClassVar[str] = "gauge"

    def set(self, value: float, **labels: str) -> None:
        """Have this value from now on."""
        record(self, value, labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram(Metric):
    """Counts values up to each of `boundaries`. Ray makes its `_sum` of the middles of these."""

    kind: ClassVar[str] = "histogram"
    boundaries: tuple[float, ...]

    def observe(self, value: float, **labels: str) -> None:
        """Count this value."""
        record(self, value, labels)


_instruments: dict[str, Record] = {}
_lock = threading.Lock()


def record(metric: Metric, value: float, labels: dict[str, str]) -> None:
    """Hand a value to Ray; for any thread."""
    instrument = _instruments.get(metric.name)
    if instrument is None:
        if not _is_replica():
            return
        with _lock:
            instrument = _instruments.setdefault(metric.name, _instrument(metric))
    instrument(value, labels)


def _is_replica() -> bool:
    try:
        ray.serve.get_replica_context()
    except RayServeException:
        return False
    return True


def _instrument(metric: Metric) -> Record:
    made: Any
    labels: Any = metric.labels  # Ray's type says that there is one
    match metric:
        case Counter():
            made = ray.serve.metrics.Counter(metric.name, metric.help, labels)
            return made.inc
        case Gauge():
            made = ray.serve.metrics.Gauge(metric.name, metric.help, labels)
            return made.set
        case Histogram():
            made = ray.serve.metrics.Histogram(
                metric.name, metric.help, list(metric.boundaries), labels
            )
            return made.observe
        case _:
            raise TypeError(f"{metric.name} is of no kind that Ray knows")


class TenantLabels:
    """Names of tenants as values of a label: few, short, and of characters that can be encoded."""

    def __init__(self, limit: int = MAX_TENANTS) -> None:
        self._limit = limit
        self._labels: dict[str, str] = {}

    def of(self, tenant: str) -> str:
        """The label of a tenant: its name, `NO_TENANT` or `OTHER_TENANTS`."""
        if not tenant:
            return NO_TENANT
        label = self._labels.get(tenant)
        if label is None:
            if len(self._labels) >= self._limit:
                return OTHER_TENANTS
            label = self._labels[tenant] = _printable(tenant[:_MAX_TENANT_CHARS])
        return label


_tenants = TenantLabels()


def tenant_label(tenant: str) -> str:
    """The label of a tenant in this process's metrics."""
    return _tenants.of(tenant)


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)


class Growth:
    """What sums have grown by since the last time, as counters want it."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def of(self, sums: Mapping[str, float]) -> dict[str, float]:
        """By name; at first all of it."""
        grown = {name: value - self._last.get(name, 0.0) for name, value in sums.items()}
        self._last.update(sums)
        return grown
