"""LeaseKeeper: renews a runner's hold of a job, and hears what the owner has asked meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from pipelines.errors import StoreUnavailable
from serve.jobs.job import JobAction
from serve.jobs.store.job_store import JobStore, Lease

LEASE_S = 10.0
"""After which another runner takes a job whose lease nobody has renewed."""

RENEW_EVERY_S = 3.0

logger = logging.getLogger("ray.serve")


class LeaseKeeper:
    """Holds `lease` until it is cancelled; `on_action` is called with what the owner wants."""

    def __init__(
        self,
        store: JobStore,
        lease: Lease,
        on_action: Callable[[JobAction], None],
        *,
        every_s: float = RENEW_EVERY_S,
    ) -> None:
        self._store = store
        self._lease = lease
        self._on_action = on_action
        self._every_s = every_s

    async def run(self) -> None:
        """Raises LeaseLost. While the store cannot be reached the job goes on: whether another
        runner has taken it is known once it can be."""
        job_id = self._lease.job.id
        while True:
            await asyncio.sleep(self._every_s)
            try:
                action = await self._store.renew(job_id, self._lease.token, lease_s=LEASE_S)
            except StoreUnavailable as error:
                logger.warning("job %s: its lease could not be renewed: %s", job_id, error)
                continue
            if action is not None:
                self._on_action(action)
