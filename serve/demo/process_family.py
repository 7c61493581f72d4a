"""Processes that one start brought about, at whatever remove, and how they are ended.

Ray starts many processes of its own (raylet, GCS, workers, dashboard), some of which outlive their
parents. All inherit a mark in their environment; but Ray's workers write their titles over it, so
what has lost it is known by its session, its parents, or because it was seen before. None of
another Ray on the machine is touched.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Mapping

import psutil

_MARK = "PROCESS_FAMILY_ID"
"""The environment variable that marks a family's processes; its value is the family's own. It is
not one of the SLUICE_ variables: those are settings."""

_LEAVE_S = 5.0


class ProcessFamily:
    """Every process that was started with `environment` among its variables, and their children."""

    def __init__(self) -> None:
        self._id = uuid.uuid4().hex
        self._sessions: set[int] = set()
        self._known: set[psutil.Process] = set()
        """Those that were there when it was last looked; a process is compared with its start."""

    @property
    def environment(self) -> dict[str, str]:
        """What the first process must find in its environment."""
        return {_MARK: self._id}

    def owns_session(self, leader: int) -> None:
        """The process `leader` was started in a session of its own, so all in it are family.

        Its number is not given to another session as long as one process is in it.
        """
        self._sessions.add(leader)

    def processes(self) -> list[psutil.Process]:
        """The processes of the family that still run."""
        running = {process.pid: process for process in psutil.process_iter()}
        family = {
            pid
            for pid, process in running.items()
            if process in self._known or self._has_mark(process) or self._is_in_session(pid)
        }
        parents = _parents(running)
        while children := {pid for pid, parent in parents.items() if parent in family} - family:
            family |= children
        self._known = {running[pid] for pid in family}
        return list(self._known)

    def end(self, *, leave_s: float = _LEAVE_S) -> None:
        """Wait `leave_s` for those that leave by themselves, then end the others; blocks."""
        psutil.wait_procs(self.processes(), timeout=leave_s)
        for end in (psutil.Process.terminate, psutil.Process.kill):
            family = self.processes()
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    end(process)
            psutil.wait_procs(family, timeout=_LEAVE_S)

    def _has_mark(self, process: psutil.Process) -> bool:
        # Those of other users cannot be read, and are none of ours.
        with contextlib.suppress(psutil.AccessDenied, psutil.NoSuchProcess):
            return process.environ().get(_MARK) == self._id
        return False

    def _is_in_session(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            return os.getsid(pid) in self._sessions
        return False


def _parents(running: Mapping[int, psutil.Process]) -> dict[int, int]:
    found: dict[int, int] = {}
    for pid, process in running.items():
        with contextlib.suppress(psutil.NoSuchProcess):
            found[pid] = process.ppid()
    return found
