"""How long this process has run, and whether it may begin anything more."""

from __future__ import annotations

import os
import time
from pathlib import Path

_IMPORTED = time.monotonic()


class Clock:
    """Seconds since the process began, imports included, against a budget of them."""

    def __init__(self, budget_s: float) -> None:
        self.budget_s = budget_s
        self._began = time.monotonic() - _process_age()

    def now(self) -> float:
        """Seconds since the process began."""
        return time.monotonic() - self._began

    def left(self) -> float:
        """Seconds of the budget, below zero when it is overspent."""
        return self.budget_s - self.now()

    def is_late(self) -> bool:
        return self.left() <= 0


def _process_age() -> float:
    """From Linux; elsewhere since this module was imported, which the command does first."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return time.monotonic() - _IMPORTED
    # The 22nd field of all, in ticks since the machine started; two came before these.
    began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began
