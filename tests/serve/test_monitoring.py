"""The dashboard and the rules name what there is, and fire when they should."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest

from deployments.metrics import declared as metrics
from tests.serve.monitoring import (
    FOLDER,
    dashboard,
    exported_names,
    expressions,
    panels,
    rules,
    used_names,
)
from tests.serve.ray_metrics import RAY_METRICS

DECLARED = {name for metric in metrics.METRICS for name in exported_names(metric)}
RECORDED = {rule["record"] for rule in rules() if "record" in rule}
ALERTS = [rule for rule in rules() if "alert" in rule]


def test_every_name_is_declared_or_recorded_or_of_ray() -> None:
    assert len(used_names()) > 30
    assert used_names() - DECLARED - RECORDED - RAY_METRICS == set()


def test_every_metric_is_on_the_dashboard_or_in_a_rule() -> None:
    unseen = [
        metric.name for metric in metrics.METRICS if not exported_names(metric) & used_names()
    ]
    assert unseen == []


def test_every_label_that_is_asked_for_is_one_of_that_metric() -> None:
    """`name{label=...}`: a label that a metric does not have selects nothing, or everything."""
    labels = {name: set(m.labels) for m in metrics.METRICS for name in exported_names(m)}
    serves = {"application", "deployment", "replica"}
    found = 0
    for expression in expressions():
        for name, inside in re.findall(r"\b(ray_sluice_\w+)\{([^}]*)\}", expression):
            asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', "", inside)))
            assert asked <= labels[name] | serves, expression
            found += 1
    assert found > 30


def test_outcomes_are_codes_that_there_are() -> None:
    from serve.errors import ERROR_TABLE

    codes = {rule.code for rule in ERROR_TABLE.values()}
    for expression in expressions():
        for outcomes in re.findall(r'outcome=~?"([^"]*)"', expression):
            assert set(outcomes.split("|")) <= codes


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    assert len(ALERTS) >= 8
    for alert in ALERTS:
        assert alert["labels"]["severity"] in ("page", "ticket"), alert["alert"]
        assert alert["for"], alert["alert"]
        assert len(alert["annotations"]["summary"]) > 20, alert["alert"]
        assert len(alert["annotations"]["description"]) > 100, alert["alert"]


def test_panels_do_not_overlap_and_ask_the_chosen_source() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    for panel in panels():
        assert panel["description"], panel["title"]
        for asked in (panel, *panel["targets"]):
            assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(ids)) == len(ids)


def promtool(*arguments: str) -> str:
    """What promtool says, which must be content."""
    command = shutil.which("promtool")
    if command is None:
        assert os.environ.get("CI") != "true", "install Debian's prometheus, as .ci/run does"
        pytest.skip("promtool is not installed: it is in Debian's package prometheus")
    done = subprocess.run(
        [command, *arguments], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_reads_the_rules() -> None:
    assert f"{len(rules())} rules found" in promtool("check", "rules", "alerts.yaml")


def test_every_alert_fires_when_it_should() -> None:
    tests = (FOLDER / "alerts.test.yaml").read_text("utf-8")
    assert {alert["alert"] for alert in ALERTS if alert["alert"] not in tests} == set()
    assert "SUCCESS" in promtool("test", "rules", "alerts.test.yaml")


def test_promtool_reads_what_the_dashboard_asks(tmp_path_factory: pytest.TempPathFactory) -> None:
    """As rules: there is no other way to have expressions checked."""
    variables = {"$__rate_interval": "5m", "$application": ".*"}
    lines = ["groups:", "  - name: dashboard", "    rules:"]
    for index, target in enumerate(target for panel in panels() for target in panel["targets"]):
        expression = target["expr"]
        for name, value in variables.items():
            expression = expression.replace(name, value)
        lines += [f"      - record: panel:{index}", "        expr: |-"]
        lines += [f"          {line}" for line in expression.splitlines()]
    path = tmp_path_factory.mktemp("rules") / "dashboard.yaml"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    promtool("check", "rules", str(path))
