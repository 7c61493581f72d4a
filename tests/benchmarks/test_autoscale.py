"""The autoscaling benchmark: its sums, its load, and the closed loop itself, quickly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.autoscaling.burst import FULL, LOOSE_S, TIGHT_S, Client, Phase, draw, offered
from benchmarks.autoscaling.plot import Line
from benchmarks.autoscaling.plot import draw as draw_lines
from benchmarks.autoscaling.timeline import (
    Fate,
    Sample,
    every,
    machine_seconds,
    met,
    met_over_time,
    replica_seconds,
)
from benchmarks.trace import drawn_trace

ROOT = Path(__file__).resolve().parents[2]

SAMPLES = [
    Sample(0.0, 0.0, running=0, changing=0, machines=0),
    Sample(2.0, 5.0, running=0, changing=2, machines=0),
    Sample(5.0, 9.0, running=2, changing=0, machines=2),
    Sample(9.0, 0.0, running=0, changing=0, machines=2),
    Sample(10.0, 0.0, running=0, changing=0, machines=0),
]
FATES = [Fate(0.5, 1.0, True, True), Fate(1.0, 9.0, True, False), Fate(12.0, 2.0, True, True)]


def test_replicas_that_start_and_machines_that_idle_are_paid_for() -> None:
    assert replica_seconds(SAMPLES) == 2 * 3.0 + 2 * 4.0
    assert machine_seconds(SAMPLES) == 2 * 4.0 + 2 * 1.0


def test_deadlines_met_are_told_by_when_requests_were_sent() -> None:
    assert met(FATES) == pytest.approx(2 / 3)
    points = met_over_time(FATES, window_s=5.0, until_s=20.0)
    assert points == [(2.5, 0.5), (12.5, 1.0)]


def test_a_table_has_the_last_sample_of_each_slot() -> None:
    assert [sample.at_s for sample in every(SAMPLES, 5.0)] == [2.0, 9.0, 10.0]


def test_the_load_begins_with_one_request_and_follows_its_phases() -> None:
    phases = (Phase(30, 0.0), Phase(40, 2.0), Phase(40, 0.5))
    requests = draw(drawn_trace(), phases, seed=3)
    assert requests[0].at_s == 0.0
    assert requests[1].at_s == 30.0
    work = [
        sum(item.solo_s for item in requests[1:] if start <= item.at_s < end) / 40
        for start, end in ((30, 70), (70, 110))
    ]
    assert work == pytest.approx([2.0, 0.5], rel=0.35)
    assert requests == draw(drawn_trace(), phases, seed=3)
    assert requests != draw(drawn_trace(), phases, seed=4)
    assert all(item.deadline_s > (TIGHT_S if item.is_tight else LOOSE_S) for item in requests[1:])


def test_offered_load_is_that_of_the_phase() -> None:
    assert [offered(FULL, at_s) for at_s in (0, 31, 61, 500)] == [0.0, 0.5, 3.0, 0.0]


def test_a_client_that_has_sent_nothing_waits_for_nothing() -> None:
    client = Client(draw(drawn_trace(), FULL, seed=1))
    assert client.queued_s == 0.0
    assert client.began is None


def test_the_picture_has_a_column_for_each_side(tmp_path: Path) -> None:
    line = Line(SAMPLES, FATES)
    widths: list[int] = []
    for sides in (["work"], ["work", "requests"]):
        path = tmp_path / f"{len(sides)}.png"
        draw_lines(dict.fromkeys(sides, line), lambda _: 1.0, path)
        with Image.open(path) as picture:
            widths.append(picture.width)
    assert widths[1] == 2 * widths[0]


@pytest.mark.cluster
@pytest.mark.long
def test_machines_and_denoisers_come_with_a_burst_and_go_after_it(tmp_path: Path) -> None:
    picture = tmp_path / "autoscale.png"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.autoscale", "--quick", "--sides", "work"),
            *("--picture", picture, "--record", tmp_path / "record.json"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = json.loads((tmp_path / "record.json").read_text())["work"]
    samples = [Sample(*values) for values in line["samples"]]
    fates = [Fate(*values) for values in line["fates"]]
    assert all(fate.is_ok for fate in fates), "a request failed"
    assert (samples[0].replicas, samples[0].machines) in [(0, 0), (1, 0)]
    assert max(sample.machines for sample in samples) >= 2
    assert max(sample.running for sample in samples) >= 2
    assert (samples[-1].replicas, samples[-1].machines) == (0, 0)
    assert picture.stat().st_size > 0
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["first_image_from_zero_s"] == pytest.approx(fates[0].latency_s, abs=1e-3)
