"""Runner: claims jobs while this replica has places for their images, and runs them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable
from contextvars import Context

from pipelines.errors import StoreUnavailable
from serve.generation.admission import Admission
from serve.jobs.job import JobAction
from serve.jobs.previews import Previews
from serve.jobs.running.job_run import JobRun
from serve.jobs.running.lease_keeper import LEASE_S
from serve.jobs.store.job_store import JobStore, Lease

logger = logging.getLogger("ray.serve")


class JobSlots:
    """How many images of jobs may be begun: as long as synchronous requests leave room, and the
    jobs to them. `max_images` gives the bound of all requests of the moment."""

    def __init__(
        self, admission: Admission, max_running: int, max_images: Callable[[], int]
    ) -> None:
        self._admission = admission
        self._max_running = max_running
        self._max_images = max_images

    def free(self, running: int) -> int:
        """Images that a job to be begun may have, while so many of jobs are `running`."""
        max_images = self._max_images()
        if self._admission.in_flight >= max_images:
            return 0
        if running == 0:
            return sys.maxsize  # a job of more images than there are slots runs alone
        # Half of all slots are never taken by jobs.
        return min(self._max_running, max(1, max_images // 2)) - running


class Runner:
    """Runs jobs in tasks of its own, from `start` to `stop`. `holder` is this replica's name,
    `run_of` makes the run of a lease, and `context_of` the context of a job's task. Every `poll_s`
    it looks for jobs that others have taken in, or left behind."""

    def __init__(
        self,
        store: JobStore,
        slots: JobSlots,
        run_of: Callable[[Lease], JobRun],
        *,
        holder: str,
        poll_s: float,
        now: Callable[[], float],
        context_of: Callable[[str], Context],
    ) -> None:
        self._store = store
        self._slots = slots
        self._run_of = run_of
        self._holder = holder
        self._poll_s = poll_s
        self._now = now
        self._context_of = context_of
        self._runs: dict[asyncio.Task[None], JobRun] = {}
        self._news = asyncio.Event()
        self._claiming: asyncio.Task[None] | None = None
        self._is_stopping = False

    def start(self) -> None:
        """Begin to claim."""
        self._is_stopping = False
        self._claiming = asyncio.create_task(self._claim_all())

    async def stop(self) -> None:
        """Claim no more, and give back what is under way, with all that is drawn of it."""
        self._is_stopping = True
        self._news.set()
        if self._claiming is not None:
            # Not cancelled: a job that it has just claimed would be held by nobody.
            await self._claiming
        for task in self._runs:
            task.cancel()
        await asyncio.gather(*self._runs, return_exceptions=True)

    def nudge(self) -> None:
        """There may be something to claim."""
        self._news.set()

    def on_action(self, job_id: str, action: JobAction) -> bool:
        """Tell the run of a job what its owner wants; False if it does not run here."""
        run = self._run(job_id)
        if run is not None:
            run.on_action(action)
        return run is not None

    def previews(self, job_id: str) -> Previews | None:
        """Those of a job that runs here."""
        run = self._run(job_id)
        return None if run is None else run.previews

    def _run(self, job_id: str) -> JobRun | None:
        return next((run for run in self._runs.values() if run.job_id == job_id), None)

    async def _claim_all(self) -> None:
        was_away = False
        while not self._is_stopping:
            self._news.clear()
            try:
                has_claimed = await self._claim()
                was_away = False
            except StoreUnavailable as error:
                if not was_away:  # once, and not every time
                    logger.warning("no job can be claimed: %s", error)
                has_claimed, was_away = False, True
            except Exception:  # the boundary of the task: jobs would wait for ever
                logger.exception("no job can be claimed")
                has_claimed = False
            if not has_claimed:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._poll_s):
                        await self._news.wait()

    async def _claim(self) -> bool:
        """Begin one job, if there is one and a place for it."""
        free = self._slots.free(sum(run.num_images for run in self._runs.values()))
        if free <= 0:
            return False
        lease = await self._store.claim(self._holder, lease_s=LEASE_S, at=self._now(), free=free)
        if lease is None:
            return False
        run = self._run_of(lease)
        task = asyncio.create_task(run.run(), context=self._context_of(lease.job.id))
        self._runs[task] = run
        task.add_done_callback(self._ended)
        return True

    def _ended(self, task: asyncio.Task[None]) -> None:
        run = self._runs.pop(task)
        self._news.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            # Its lease runs out, and somebody begins it again.
            logger.error("job %s: its run broke", run.job_id, exc_info=error)
