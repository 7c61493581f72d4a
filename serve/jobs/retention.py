"""Retention: jobs that are over leave in time, by age and by the bytes of their tenant."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from pipelines.errors import StageFailed, StoreUnavailable
from serve.jobs.job import Job
from serve.jobs.store.job_store import JobStore
from serve.jobs.stored_pictures import input_ids

SWEEP_EVERY_S = 60.0

logger = logging.getLogger("ray.serve")


class JobFiles(Protocol):
    """Where the files of jobs are; `deployments.storage.store` in the product."""

    def delete(self, file_id: str) -> None:
        """Remove the file, if there is one; blocks. Raises StageFailed."""
        ...


class Retention:
    """Forgets jobs with their files. Any number of replicas may do it at once. `now` is Unix
    time."""

    def __init__(
        self,
        store: JobStore,
        files: JobFiles,
        *,
        max_bytes_per_tenant: int,
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._files = files
        self._max_bytes = max_bytes_per_tenant
        self._now = now

    async def run(self) -> None:
        """Sweep again and again, until it is cancelled."""
        while True:
            try:
                await self.sweep()
            except (StoreUnavailable, StageFailed) as error:
                logger.warning("jobs that are over wait to be forgotten: %s", error)
            except Exception:  # the boundary of the task: the store would grow for ever
                logger.exception("jobs that are over cannot be forgotten")
            await asyncio.sleep(SWEEP_EVERY_S)

    async def sweep(self) -> None:
        """Forget what is too old or too much. Raises StoreUnavailable, and StageFailed once all is
        forgotten but jobs whose files cannot be deleted."""
        stuck = await self._forget_all(lambda: self._store.expired(at=self._now()))
        stuck = await self._forget_all(lambda: self._store.over_bytes(self._max_bytes)) or stuck
        if stuck is not None:
            raise stuck

    async def forget(self, job: Job) -> None:
        """Forget a job that is over; its files first, those that it drew from among them, so that
        none is left that nobody knows of. Raises ValueError if it is not over."""
        for file_id in (*input_ids(job.request), *(output.file_id for output in job.outputs)):
            await asyncio.to_thread(self._files.delete, file_id)
        await self._store.delete(job.id)

    async def _forget_all(self, look: Callable[[], Awaitable[Sequence[Job]]]) -> StageFailed | None:
        """Forget what each `look` finds, until one finds nothing, or a job that cannot go."""
        stuck: StageFailed | None = None
        while stuck is None and (jobs := await look()):
            for job in jobs:
                try:
                    await self.forget(job)
                except StageFailed as error:  # it must not keep the others
                    stuck = error
        return stuck
