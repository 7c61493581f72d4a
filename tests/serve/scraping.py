"""Reads what the nodes of a Ray cluster export to Prometheus."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import httpx
import ray
from prometheus_client.parser import text_string_to_metric_families


class Sample(NamedTuple):
    """One line of an endpoint."""

    name: str
    labels: dict[str, str]
    value: float


def scrape() -> list[Sample]:
    """The samples of all nodes."""
    return [
        Sample(sample.name, sample.labels, sample.value)
        for node in ray.nodes()
        for family in text_string_to_metric_families(_text(node))
        for sample in family.samples
    ]


def total(samples: Iterable[Sample], name: str, **labels: str) -> float:
    """The sum of what has this name and these labels."""
    return sum(
        sample.value
        for sample in samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def _text(node: dict) -> str:
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    return httpx.get(url, timeout=30).text
