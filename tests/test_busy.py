"""The runner of tests on a busy machine: what it starts ends, and what fails is said."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.busy import busy, main

SOME = """
import pytest

def test_good(): pass

def test_bad(): assert False

@pytest.mark.skip
def test_not_here(): pass
"""


def test_what_keeps_the_machine_busy_ends_with_the_runs() -> None:
    started: list[psutil.Process] = []

    def interrupted() -> None:
        with busy(2) as processes:
            started.extend(psutil.Process(process.pid) for process in processes)
            assert all(process.is_running() for process in started)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(started) == 2
    assert not any(process.is_running() for process in started)


def test_a_line_for_each_run_names_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tests = tmp_path / "test_some.py"
    tests.write_text(SOME)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # they take seconds to import
    logs = ["--logs", str(tmp_path / "logs"), "--busy", "0"]
    assert main(["--runs", "2", *logs, "--", "-p", "no:cacheprovider", str(tests)]) == 1
    first, name, second, _ = capsys.readouterr().out.splitlines()
    assert first.startswith("run 1 of 2: 1 passed, 1 failed in ")
    assert name.endswith("test_some::test_bad")
    assert second.startswith("run 2 of 2: ")
    assert "assert False" in (tmp_path / "logs" / "busy-2.log").read_text()
    good = f"{tests}::test_good"
    assert main(["--runs", "1", *logs, "--", "-p", "no:cacheprovider", good]) == 0
    assert main(["--runs", "1", *logs, "--", "-p", "no:cacheprovider", "no_such_file.py"]) == 1
    assert "(pytest ended with 4)" in capsys.readouterr().out
