"""Processes that one start brought about, at whatever remove, and how they are ended.

Ray starts many processes of its own (raylet, GCS, workers, dashboard), some of which outlive their
parents. All inherit a mark in their environment, so that each is found, and none of another Ray on
the machine is touched.
"""

from __future__ import annotations

import contextlib
import uuid

import psutil

_MARK = "PROCESS_FAMILY_ID"
"""The environment variable that marks a family's processes; its value is the family's own. It is
not one of the SLUICE_ variables: those are settings."""

_LEAVE_S = 5.0


class ProcessFamily:
    """Every process that was started with `environment` among its variables, and their children."""

    def __init__(self) -> None:
        self._id = uuid.uuid4().hex

    @property
    def environment(self) -> dict[str, str]:
        """What the first process must find in its environment."""
        return {_MARK: self._id}

    def processes(self) -> list[psutil.Process]:
        """Those that still run."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            # Those of other users cannot be read, and are none of ours.
            with contextlib.suppress(psutil.AccessDenied, psutil.NoSuchProcess):
                if process.environ().get(_MARK) == self._id:
                    found.append(process)
        return found

    def end(self, *, leave_s: float = _LEAVE_S) -> None:
        """Wait `leave_s` for those that leave by themselves, then end the others; blocks."""
        psutil.wait_procs(self.processes(), timeout=leave_s)
        for end in (psutil.Process.terminate, psutil.Process.kill):
            family = self.processes()
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    end(process)
            psutil.wait_procs(family, timeout=_LEAVE_S)
