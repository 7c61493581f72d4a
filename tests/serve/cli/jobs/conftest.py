"""A server of jobs, and the command line that is run against it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from serve.cli import main as cli
from tests.serve.cli.jobs.job_server import JobServer, job_server


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
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    server: JobServer,
) -> Run:
    """Runs `sluice` with arguments and the server's `--url`, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def run_it(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["sluice", *arguments, "--url", server.url])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), captured.out, captured.err)

    return run_it
