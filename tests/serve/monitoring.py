"""The dashboard and the rules of `serve/monitoring`, and the names that they use."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from deployments.metrics.instruments import Histogram, Metric

FOLDER = Path(__file__).resolve().parents[2] / "serve" / "monitoring"

_NAME = re.compile(r"\b(?:ray_|sluice:)[a-zA-Z0-9_:]+")


def dashboard() -> dict[str, Any]:
    return json.loads((FOLDER / "grafana.json").read_text("utf-8"))


def panels() -> list[dict[str, Any]]:
    """Those of the dashboard that show something."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    """All rules, recording and alerting."""
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> Iterator[str]:
    """What dashboard and rules ask Prometheus."""
    for panel in panels():
        yield from (target["expr"] for target in panel["targets"])
    for variable in dashboard()["templating"]["list"]:
        yield variable.get("definition", "")
    for rule in rules():
        yield rule["expr"]
        yield rule.get("annotations", {}).get("description", "")


def used_names() -> set[str]:
    """The metrics, recorded ones among them, that are named anywhere."""
    return {name for expression in expressions() for name in _NAME.findall(expression)}


def exported_names(metric: Metric) -> set[str]:
    """The names of a metric at an endpoint."""
    if isinstance(metric, Histogram):
        return {f"{metric.exposed}_{part}" for part in ("bucket", "sum", "count")}
    return {metric.exposed}
