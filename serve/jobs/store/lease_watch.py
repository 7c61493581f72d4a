"""LeaseWatch: which leases have run out, by the clock of whoever looks.

A lease has a counter, which its holder increases. Clocks of two machines are never compared: a
lease has run out when this watch has seen the same counter for the lease's whole time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from serve.jobs.store.lanes import Candidate


class HeldJob(NamedTuple):
    """A running job; `token` is None when it was given back. `lease_s` is its holder's promise."""

    id: str
    token: str | None
    renewals: int
    lease_s: float
    priority: int = 0
    created_at: float = 0.0
    images: int = 1
    passed_over: int = 0


class LeaseWatch:
    """`clock` tells seconds from anywhere, and never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[tuple[str | None, int], float]] = {}

    def abandoned(self, running: Iterable[HeldJob]) -> Sequence[Candidate]:
        """Those of all `running` jobs that anyone may take over now, the first first."""
        now = self._clock()
        seen: dict[str, tuple[tuple[str | None, int], float]] = {}
        found: list[HeldJob] = []
        for job in running:
            lease = (job.token, job.renewals)
            before, since = self._seen.get(job.id, (None, now))
            seen[job.id] = (lease, since if before == lease else now)
            if job.token is None or now - seen[job.id][1] >= job.lease_s:
                found.append(job)
        self._seen = seen
        found.sort(key=lambda job: (-job.priority, job.created_at, job.id))
        return [Candidate(job.id, job.priority, job.images, job.passed_over) for job in found]

    def forget(self) -> None:
        """Count from the next look. After one that failed: where jobs cannot be seen, their holders
        cannot renew either, and are given a whole lease to do so."""
        self._seen = {}
