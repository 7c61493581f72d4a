"""The planning benchmark measures what it says."""

from __future__ import annotations

import json
import sys
from typing import get_args

import pytest

from benchmarks import planning
from benchmarks.planning import Mix, Simulation, measure
from pipelines.engine.scheduling.policies import Policy


@pytest.mark.parametrize("mix", get_args(Mix))
@pytest.mark.parametrize("policy", get_args(Policy))
def test_as_many_always_wait(policy: Policy, mix: Mix) -> None:
    simulation = Simulation(policy, mix, 20)
    for _ in range(30):
        assert simulation.tick() >= 0
        assert len(simulation.scheduler) == 20


def test_the_mixes_are_what_they_are_called() -> None:
    """By the deadlines that are kept when all that wait is run to its end."""

    def share_on_time(mix: Mix) -> float:
        simulation = Simulation("edf", mix, 60)
        scheduler, now = simulation.scheduler, 0.0
        on_time = 0
        while (tick := scheduler.plan(now)) is not None:
            now += planning.SURFACE.seconds(tick.load)
            done = scheduler.advance(tick, now)
            on_time += sum(work.deadline is not None and now <= work.deadline for work in done)
        return on_time / 60

    assert share_on_time("on_time") > 0.9
    assert share_on_time("late") < 0.8
    assert share_on_time("shortened") > share_on_time("late")


def test_times_are_ordered() -> None:
    times = measure("edf", "late", 10, ticks=5)
    assert 0 < times.median <= times.p99 <= times.max


def test_the_last_line_is_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["planning", "--ticks", "3"])
    monkeypatch.setattr(planning, "COUNTS", (5,))
    monkeypatch.setattr(planning, "_WARM_UP_TICKS", 1)
    planning.main()
    values = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(values) == set(get_args(Policy))
    assert set(values["edf"]["late"]["5"]) == {"median", "p99", "max"}
