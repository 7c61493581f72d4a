from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from rich.console import Console

from serve.cli import main as cli
from serve.cli.load_view import load_view
from serve.load.server_load import ServerLoad
from tests.serve.cli.jobs.job_server import JobServer, job_server

LOAD: dict[str, Any] = {
    "object": "load",
    "at": 1.8e9,
    "window_s": 60.0,
    "model": "flux.1-dev",
    "ingress_replicas": 2,
    "deployments": [
        {"name": "Ingress", "status": "HEALTHY", "replicas": {"RUNNING": 2}},
        {"name": "TextEncoder", "status": "HEALTHY", "replicas": {}},
        {"name": "Denoiser", "status": "UPSCALING", "replicas": {"STARTING": 1, "RUNNING": 2}},
    ],
    "denoisers": [
        {
            "replica": "k3u8x0qz",
            "images": 12,
            "queued_s": 41.25,
            "tick_tokens": 8704.0,
            "tick_s": 0.112,
            "knee_tokens": 9216,
            "knee_s": 0.12,
        },
        {
            "replica": "p91bd2mm",
            "images": 0,
            "queued_s": 0.0,
            "tick_tokens": None,
            "tick_s": None,
            "knee_tokens": 9216,
            "knee_s": 0.12,
        },
    ],
    "requests": {
        "per_s": 1.55,
        "outcomes": {"ok": 90, "deadline_unreachable": 3},
        "images_in_flight": 14,
    },
    "deadlines": {"met": 87, "missed": 3, "refused": 3},
    "jobs": {"running": 4, "queued": 31},
    "tenants": [
        {"tenant": "atelier [x]", "images_in_flight": 9, "queued_jobs": 30, "running_jobs": 3},
        {"tenant": "none", "images_in_flight": 5, "queued_jobs": None, "running_jobs": None},
    ],
}


def screen(load: dict[str, Any], *, width: int = 80, fault: str | None = None) -> list[str]:
    console = Console(width=width, record=True, force_terminal=False)
    with console.capture() as captured:
        view = load_view(ServerLoad.model_validate(load), url="http://localhost:8000", fault=fault)
        console.print(view)
    return [line.rstrip() for line in captured.get().splitlines()]


def row(lines: list[str], begins: str) -> str:
    (found,) = [line for line in lines if line.strip().startswith(begins)]
    return " ".join(found.split())


class TestView:
    def test_it_is_all_there_in_80_columns(self):
        lines = screen(LOAD)
        assert max(map(len, lines)) <= 80
        assert row(lines, "flux.1-dev").startswith("flux.1-dev http://localhost:8000 ")
        assert row(lines, "Denoiser ") == "Denoiser upscaling 2 running, 1 starting"
        assert row(lines, "TextEncoder") == "TextEncoder healthy none, asleep"
        assert row(lines, "k3u8x0qz").startswith("k3u8x0qz 12 41.2 s 112 ms")
        assert row(lines, "k3u8x0qz").endswith("8704 of 9216")
        assert row(lines, "p91bd2mm") == "p91bd2mm 0 0.0 s - idle"
        assert row(lines, "requests").startswith("requests 1.55 a second, 14 images in flight")
        assert row(lines, "90 ok") == "90 ok, 3 deadline unreachable in 60 s"
        said = "deadlines 87 met, 3 missed, 3 refused in 60 s: 96.7 % met"
        assert row(lines, "deadlines") == said
        assert row(lines, "jobs") == "jobs 31 queued, 4 running"
        assert row(lines, "atelier") == "atelier [x] 9 30 3"
        assert row(lines, "none  ") == "none 5 - -"

    def test_no_row_is_broken(self):
        assert len(screen(LOAD)) == len(screen(LOAD, width=200))

    def test_many_denoisers_leave_room_for_the_rest(self):
        busy, _ = LOAD["denoisers"]
        lines = screen({**LOAD, "denoisers": [busy] * 64})
        assert sum(busy["replica"] in line for line in lines) == 12
        assert row(lines, "and ") == "and 52 with less to do, 2145.0 s in all"

    def test_what_is_not_known(self):
        nothing = {
            **LOAD,
            "deployments": None,
            "denoisers": None,
            "jobs": None,
            "tenants": [],
            "requests": {"per_s": 0.0, "outcomes": {}, "images_in_flight": 0},
            "deadlines": {"met": 0, "missed": 0, "refused": 0},
        }
        lines = screen(nothing)
        assert " replicas: Serve does not tell of them now" in lines
        assert " queues: no denoiser tells of its own now" in lines
        assert row(lines, "jobs") == "jobs -"
        assert row(lines, "none ended") == "none ended in 60 s"
        assert row(lines, "deadlines") == "deadlines 0 met, 0 missed, 0 refused in 60 s"
        assert " queues: no denoiser runs" in screen({**nothing, "denoisers": []})

    def test_why_it_is_not_of_this_moment(self):
        assert " it did not answer" in screen(LOAD, fault="it did not answer")


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def server() -> Iterator[JobServer]:
    with job_server() as served:
        yield served


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], server: JobServer
) -> Run:
    def run_it(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["sluice", "top", *arguments, "--url", server.url])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), captured.out, captured.err)

    return run_it


@pytest.mark.parametrize("arguments", [("--once",), ()])
def test_one_screen_where_there_is_no_terminal(
    run: Run, server: JobServer, arguments: tuple[str, ...]
):
    server.load = LOAD
    outcome = run(*arguments)
    assert (outcome.code, outcome.err) == (0, "")
    assert "k3u8x0qz" in outcome.out
    assert server.paths("GET") == ["/load"]


def test_for_programs(run: Run, server: JobServer):
    server.load = LOAD
    assert json.loads(run("--json").out) == LOAD


def test_a_server_that_does_not_tell(run: Run):
    outcome = run()
    assert outcome.code == 1
    assert "metrics.load is off there, or it is older" in outcome.err


def test_a_server_that_goes_away_is_waited_for(
    run: Run, server: JobServer, monkeypatch: pytest.MonkeyPatch
):
    """Until Ctrl-C, which is no error."""
    server.load = LOAD
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        server.load = None if len(looks) == 1 else LOAD
        if len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("serve.cli.top.time.sleep", sleep)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    outcome = run("--every", "2")
    assert outcome.code == 0
    assert looks == [2.0] * 3
    assert outcome.out.count("metrics.load is off there") == 1
