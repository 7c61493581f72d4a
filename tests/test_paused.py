"""Processes that tests let stand still: they do, and go on, whatever happens meanwhile."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from tests.cluster import paused, paused_once, wait_until


@pytest.fixture
def process() -> Iterator[psutil.Process]:
    child = subprocess.Popen([sys.executable, "-c", "import time\nwhile True: time.sleep(0.01)"])
    try:
        yield psutil.Process(child.pid)
    finally:
        child.kill()
        child.wait()


def stands(process: psutil.Process) -> bool:
    return process.status() == psutil.STATUS_STOPPED


def test_it_stands_still_and_goes_on_even_after_an_error(process: psutil.Process) -> None:
    def fail() -> None:
        with paused([process]):
            wait_until(lambda: stands(process))
            raise ValueError("in between")

    with pytest.raises(ValueError, match="in between"):
        fail()
    wait_until(lambda: not stands(process))


def test_it_may_be_killed_meanwhile(process: psutil.Process) -> None:
    with paused([process]):
        process.kill()
        process.wait()
    assert not process.is_running()


def test_it_runs_until_something_is_true_and_stands_from_then_on(process: psutil.Process) -> None:
    looks = iter((False, False, True))
    with paused_once(lambda: next(looks), [process]):
        assert next(looks, None) is None
        wait_until(lambda: stands(process))
    wait_until(lambda: not stands(process))
