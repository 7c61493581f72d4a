from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from serve.demo.process_family import ProcessFamily

OVERWRITE = """
import ctypes, sys, time
# As setproctitle does: the environment that a process was started with becomes zeros.
start, end = (int(open("/proc/self/stat").read().rpartition(")")[2].split()[i]) for i in (47, 48))
ctypes.memset(start, 0, end - start)
print("ready", flush=True)
time.sleep(120)
"""


def wait_for(is_so: Callable[[], bool]) -> None:
    for _ in range(600):
        if is_so():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come to be")


@contextmanager
def started(family: ProcessFamily, code: str, *, alone: bool = False) -> Generator[int]:
    """A process with the family's mark that has said its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **family.environment},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=alone,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process.pid
    finally:
        process.stdout.close()
        process.kill()
        process.wait()


def pids(family: ProcessFamily) -> set[int]:
    return {process.pid for process in family.processes()}


PARENT = """
import subprocess, sys, time
from pathlib import Path
child = subprocess.Popen([sys.executable, "-c", Path(sys.argv[1]).read_text()], stdout=-1)
child.stdout.readline()
Path(sys.argv[2]).write_text(str(child.pid))
print("ready", flush=True)
time.sleep(120)
"""


def parent_of_one_without_mark(folder: Path) -> tuple[str, Path]:
    (folder / "overwrite.py").write_text(OVERWRITE)
    arguments = [str(folder / "overwrite.py"), str(folder / "pid")]
    return f"import sys; sys.argv[1:] = {arguments!r}\n" + PARENT, folder / "pid"


def test_the_mark_can_be_overwritten() -> None:
    """What these tests are about is so on this machine."""
    family = ProcessFamily()
    with started(family, OVERWRITE) as pid:
        assert psutil.Process(pid).environ() == {}
        assert pid not in pids(family)


def test_the_child_of_a_marked_process_needs_no_mark(tmp_path: Path) -> None:
    family = ProcessFamily()
    code, written = parent_of_one_without_mark(tmp_path)
    with started(family, code) as parent:
        child = int(written.read_text())
        assert pids(family) == {parent, child}
        # It was seen, so it is known once it is an orphan.
        psutil.Process(parent).kill()
        wait_for(lambda: psutil.Process(child).ppid() != parent)
        assert child in pids(family)
        family.end(leave_s=0)
        assert not pids(family)
        assert not psutil.pid_exists(child)


def test_an_orphan_that_was_never_seen_is_known_by_its_session(tmp_path: Path) -> None:
    family = ProcessFamily()
    code, written = parent_of_one_without_mark(tmp_path)
    with started(family, code, alone=True) as parent:
        family.owns_session(parent)
        child = int(written.read_text())
        psutil.Process(parent).kill()
        wait_for(lambda: psutil.Process(child).ppid() != parent)
        assert child in pids(family)
        family.end(leave_s=0)
        assert not psutil.pid_exists(child)


def test_none_of_another_family_or_of_ours_is_touched(tmp_path: Path) -> None:
    family, other = ProcessFamily(), ProcessFamily()
    with started(other, "import time; print('ready', flush=True); time.sleep(120)") as pid:
        family.end(leave_s=0)
        assert pids(other) == {pid}
        assert os.getpid() not in pids(other)


@pytest.mark.parametrize("mark", [True, False])
def test_rays_own_title_takes_the_mark_away(mark: bool) -> None:
    """Why all this: Ray's workers are named by the code that overwrites."""
    family = ProcessFamily()
    title = "" if mark else "ray._raylet.setproctitle('ray::Replica')"
    code = f"""
    import time, ray._raylet
    {title}
    print('ready', flush=True)
    time.sleep(120)
    """
    with started(family, code) as pid:
        assert (pid in pids(family)) is mark
