"""What is recorded in this process, where Ray would have it in a replica."""

from __future__ import annotations

from collections import defaultdict

import pytest

from deployments.metrics.instruments import Counter, Metric


class Recorder:
    """Values by metric and labels: counters summed up, of gauges and histograms all."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, frozenset[tuple[str, str]]], list[float]] = defaultdict(list)

    def record(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        assert set(labels) == set(metric.labels), metric.name
        assert all(isinstance(label, str) for label in labels.values()), metric.name
        if isinstance(metric, Counter):
            assert value > 0, metric.name
        self._values[metric.name, frozenset(labels.items())].append(value)

    def values(self, metric: Metric, **labels: str) -> list[float]:
        return self._values.get((metric.name, frozenset(labels.items())), [])

    def total(self, metric: Metric, **labels: str) -> float:
        return sum(self.values(metric, **labels))

    def labels(self, metric: Metric) -> list[dict[str, str]]:
        return [dict(labels) for name, labels in self._values if name == metric.name]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr("deployments.metrics.instruments.record", recorder.record)
    return recorder
