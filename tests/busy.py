"""`make test-busy`: tests (of clusters) again and again, on a machine that others keep busy.

Beside each run, as many processes as there are cores do nothing but compute, at the priority of the
tests. Prints a line for each run. What a run printed is in its log.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

# Ends with the process that started it, however that ends.
_COMPUTE = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


class Outcome(NamedTuple):
    """Of one run: how many tests, and the names of those that failed."""

    passed: int
    failed: tuple[str, ...]
    code: int
    """pytest's exit status."""
    seconds: float

    @property
    def line(self) -> str:
        text = f"{self.passed} passed, {len(self.failed)} failed in {self.seconds / 60:.1f} min"
        if self.code and not self.failed:
            text += f" (pytest ended with {self.code})"
        return "\n".join([text, *(f"  {name}" for name in self.failed)])


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code is 0 when no test has failed in any run."""
    options = _parse(arguments)
    options.logs.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    with busy(options.busy):
        for number in range(1, options.runs + 1):
            outcomes.append(run(options.logs / f"busy-{number}.log", options.pytest))
            print(f"run {number} of {options.runs}: {outcomes[-1].line}", flush=True)
    return int(any(outcome.code for outcome in outcomes))


@contextmanager
def busy(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that compute meanwhile, each for a core."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        started.extend(subprocess.Popen([sys.executable, "-c", _COMPUTE]) for _ in range(count))
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def run(log: Path, arguments: Sequence[str]) -> Outcome:
    """pytest with `arguments`; what it prints goes to `log`."""
    report = log.with_suffix(".xml")
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", f"--junitxml={report}"]
    began = time.monotonic()
    with log.open("wb") as file:
        code = subprocess.run(
            [*command, *arguments],
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    passed, failed = read(report) if report.exists() else (0, ())
    return Outcome(passed, failed, code, time.monotonic() - began)


def read(report: Path) -> tuple[int, tuple[str, ...]]:
    """How many tests passed, and the names of those that did not, skipped ones apart."""
    passed, failed = 0, dict[str, None]()
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed[f"{case.get('classname')}::{case.get('name')}"] = None
        elif case.find("skipped") is None:
            passed += 1
    return passed, tuple(failed)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.busy", description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--busy", type=int, default=len(os.sched_getaffinity(0)), help="processes")
    parser.add_argument("--logs", type=Path, default=Path("output/busy"), help="folder")
    parser.add_argument("pytest", nargs="+", help="after --: which tests, as pytest's arguments")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
