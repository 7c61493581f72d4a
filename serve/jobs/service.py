"""JobService: everything that can be done with jobs, for whatever API asks. Knows no HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextvars import Context

from deployments.broadcast import AskAll
from deployments.metrics import declared as metrics
from pipelines.catalog import ModelSpec
from pipelines.errors import (
    InvalidRequest,
    JobConflict,
    JobNotFound,
    Overloaded,
    StoreUnavailable,
)
from serve.generation.service import GenerationService
from serve.jobs.cursor import Cursors
from serve.jobs.event_feed import EventFeed
from serve.jobs.job import Job, JobAction, JobEvent, JobStatus, Owner
from serve.jobs.job_trace import JobTracer
from serve.jobs.place import OVER, Place, place_of
from serve.jobs.previews import Marker, Shown
from serve.jobs.retention import JobFiles, Retention
from serve.jobs.running.job_run import JobRun, RunSetting
from serve.jobs.running.runner import JobSlots, Runner
from serve.jobs.store.job_store import (
    Bounds,
    JobPage,
    JobStore,
    Lease,
    QueueFull,
    SubmittedJob,
    Waiting,
)
from serve.jobs.stored_request import stored_plan
from serve.jobs.submission import Submission
from serve.settings.settings import Settings
from serve.shutdown import Shutdown
from serve.tracing.recorder import Recorder

LAST_EVENT_ID = "Last-Event-ID"
MAX_PAGE = 100

PREVIEWS_HOLD_S = 2.0
"""For which another replica's question for previews is held open; within what it waits."""

_NOTHING_WAITS = Waiting(jobs=0, work_s=0.0)

logger = logging.getLogger("ray.serve")


class JobService:
    """One ingress replica's view of the jobs in `store`, and its part in running them.

    `files` are deleted with their jobs. `settings` gives those of the moment, `now` Unix time.
    `holder` names this replica, `context_of` makes the context in which a job is run, and `ask_all`
    asks all replicas. Once `shutdown` has begun, it runs no more of them.
    """

    def __init__(
        self,
        store: JobStore,
        generations: GenerationService,
        files: JobFiles,
        *,
        settings: Callable[[], Settings],
        spec: ModelSpec,
        recorder: Recorder,
        holder: str,
        now: Callable[[], float],
        context_of: Callable[[str], Context],
        ask_all: AskAll | None = None,
        shutdown: Shutdown,
    ) -> None:
        config = settings().jobs
        self._store = store
        self._generations = generations
        self._settings = settings
        self._spec = spec
        self._ask_all = ask_all
        self._now = now
        self._bounds = Bounds(
            waiting_s=config.max_waiting_s,
            waiting_s_per_tenant=config.max_waiting_s_per_tenant,
        )
        self._tracer = JobTracer(
            store=store,
            generations=generations,
            recorder=recorder,
            spec=spec,
            deadlines=lambda: settings().deadlines,
        )
        self._run_setting = RunSetting(
            store=store,
            files=files,
            generations=generations,
            tracer=self._tracer,
            spec=spec,
            served_names=(settings().model_id, spec.name),
            deadlines=lambda: settings().deadlines,
            now=now,
        )
        self._runner = Runner(
            store,
            JobSlots(
                generations.admission,
                config.max_running,
                lambda: settings().limits.max_queued_images,
            ),
            self._run_of,
            holder=holder,
            poll_s=config.poll_s,
            now=now,
            context_of=context_of,
        )
        self._retention = Retention(
            store, files, max_bytes_per_tenant=config.max_bytes_per_tenant, now=now
        )
        self._feed = EventFeed(store, self._runner.previews, ask_all, now)
        self._shutdown = shutdown
        self._is_open = False
        self._sweeping: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._telling: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Open the store, unless it is. Raises ConfigurationError for one that cannot be used."""
        if not self._is_open:
            await self._store.open()
            self._is_open = True

    def start(self) -> None:
        """Run jobs from now on, and forget old ones."""
        self._runner.start()
        self._sweeping = asyncio.create_task(self._retention.run())
        self._leaving = asyncio.create_task(self._leave())

    async def close(self) -> None:
        """Give back what is under way, to go on elsewhere, and close the store."""
        others = [self._sweeping, *self._telling]
        if not self._shutdown.has_begun:  # else what it gives back is on its way
            others.append(self._leaving)
        for task in others:
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if self._leaving is not None and not self._leaving.cancelled():
            await self._leaving
        await self._runner.stop()
        await self._store.close()
        self._is_open = False

    async def _leave(self) -> None:
        """Serve waits for requests under way, which would keep jobs here for as long."""
        await self._shutdown.wait()
        await self._runner.stop()

    async def submit(self, submission: Submission) -> SubmittedJob:
        """Store a job, which is run in its turn; or the one that its idempotency key has had.

        Raises ContentPolicyViolation, IdempotencyKeyReused, Overloaded when too much waits, and
        StoreUnavailable.
        """
        await self._generations.check_prompt(submission.plan)
        job = submission.job(self._generations.forecast(submission.plan))
        try:
            submitted = await self._store.submit(job, self._bounds)
        except QueueFull as full:
            raise self._refused(full, job) from full
        self._runner.nudge()
        return submitted

    async def get(self, job_id: str, owner: Owner) -> Job:
        """The job. Raises JobNotFound, also for another owner's."""
        return _seen_by(owner, await self._store.get(job_id), job_id)

    async def find(self, job_id: str) -> Job | None:
        """The job, whoever owns it: who may see it is for the caller to say."""
        return await self._store.get(job_id)

    async def page(
        self,
        owner: Owner,
        *,
        statuses: frozenset[JobStatus] | None = None,
        cursor: str | None = None,
        limit: int = 20,
    ) -> JobPage:
        """The owner's jobs, the newest first. Raises InvalidRequest for a cursor that is none."""
        cursors = Cursors(await self._store.secret())
        before = None if cursor is None else cursors.read(cursor, owner)
        jobs = await self._store.page(owner, statuses=statuses, before=before, limit=limit + 1)
        shown = jobs[:limit]
        return JobPage(
            jobs=shown, cursor=cursors.after(shown[-1], owner) if len(jobs) > limit else None
        )

    async def cancel(self, job_id: str, owner: Owner) -> Job:
        """Draw no more of it. A job that is over is returned as it is."""
        return await self._ask(job_id, owner, JobAction.CANCEL)

    async def keep(self, job_id: str, owner: Owner) -> Job:
        """Finish its images now, from what is predicted of them; else as `cancel`."""
        return await self._ask(job_id, owner, JobAction.KEEP)

    async def delete(self, job_id: str, owner: Owner) -> None:
        """Forget it and its files. Raises JobConflict unless it is over."""
        job = await self.get(job_id, owner)
        if not job.status.is_final:
            raise JobConflict(f"job {job_id} is {job.status}; cancel it, and delete it then")
        await self._retention.forget(job)

    async def check_events(self, job_id: str, owner: Owner, *, after: int) -> Job:
        """The job whose events after `after` may be followed. Raises JobNotFound, InvalidRequest
        for a number that it has not come to."""
        job = await self.get(job_id, owner)
        if not 0 <= after <= job.last_event:
            raise InvalidRequest(
                f"{LAST_EVENT_ID}: must be 0 to {job.last_event}, the last event of this job, got"
                f" {after}",
                param=LAST_EVENT_ID,
            )
        return job

    async def events(
        self, job_id: str, owner: Owner, *, after: int = 0, previews: bool = False
    ) -> AsyncGenerator[JobEvent]:
        """Stored events after `after`, live until the final one, with `previews` between them if
        wanted; while the store is away, nothing comes. Raises as `check_events`."""
        while True:
            try:
                await self.check_events(job_id, owner, after=after)
                break
            except StoreUnavailable as error:
                logger.warning("job %s: its events wait: %s", job_id, error)
                await asyncio.sleep(error.retry_after_s)
        follow = self._feed.follow_with_previews if previews else self._feed.follow
        events = follow(job_id, after=after)
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()

    async def wait(self, job_id: str, owner: Owner, timeout_s: float) -> Job:
        """The job as soon as it is over, or as it is after the time."""
        job = await self.get(job_id, owner)
        try:
            async with asyncio.timeout(timeout_s):
                while not job.status.is_final:
                    await self._store.changed(job_id, after=job.last_event, timeout_s=timeout_s)
                    job = await self.get(job_id, owner)
        except TimeoutError:
            return await self.get(job_id, owner)
        return job

    async def place(self, job: Job) -> Place:
        """Where it stands, and when it should be over."""
        return (await self.places([job]))[0]

    async def places(self, jobs: Sequence[Job]) -> list[Place]:
        """The place of each; the store is asked once for all of them, where any waits."""
        queued = [job.id for job in jobs if job.status is JobStatus.QUEUED]
        before: Mapping[str, Waiting] = {}
        if queued:
            before = await self._store.waiting_before(queued)
        return [self._place(job, before.get(job.id, _NOTHING_WAITS)) for job in jobs]

    def _place(self, job: Job, waiting: Waiting) -> Place:
        if job.status.is_final:
            return OVER
        plan = stored_plan(job.request, spec=self._spec, deadlines=self._settings().deadlines)
        return place_of(job, self._generations.forecast(plan), waiting)

    async def active(self) -> dict[tuple[str, str], int]:
        """Jobs of all owners that are not over, by tenant and status. Raises StoreUnavailable."""
        return {
            (tenant, str(status)): jobs
            for (tenant, status), jobs in (await self._store.active()).items()
        }

    def on_action(self, job_id: str, action: JobAction) -> None:
        """For other replicas: a job's owner wants this."""
        self._runner.on_action(job_id, action)

    async def previews(self, job_id: str, seen: Marker | None) -> Shown | None:
        """For other replicas, where somebody watches: new previews of a job, as soon as there are
        some or a while has passed; None at once if it does not run here."""
        here = self._runner.previews(job_id)
        return None if here is None else await here.next(seen, timeout_s=PREVIEWS_HOLD_S)

    def _run_of(self, lease: Lease) -> JobRun:
        return JobRun(lease, self._run_setting)

    async def _ask(self, job_id: str, owner: Owner, action: JobAction) -> Job:
        before, now = await self.get(job_id, owner), self._now()
        job = _seen_by(owner, await self._store.ask(job_id, action, now), job_id)
        if before.status is JobStatus.QUEUED and job.finished_at == now:
            await self._tracer.over(job)  # nobody else will have it: this call has ended it
        if not job.status.is_final and not self._runner.on_action(job_id, action):
            self._tell_others(job_id, action)
        return job

    def _tell_others(self, job_id: str, action: JobAction) -> None:
        """Its runner hears of it when it renews its lease; told, it does so at once."""
        if self._ask_all is None:
            return

        async def tell(ask_all: AskAll) -> None:
            await ask_all("job_action", job_id, action)

        task = asyncio.create_task(tell(self._ask_all))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    def _refused(self, full: QueueFull, job: Job) -> Overloaded:
        whose, most = "of all jobs", self._bounds.waiting_s
        if full.scope == "tenant":
            whose, most = "of your jobs", self._bounds.waiting_s_per_tenant
        metrics.ADMISSION_REFUSALS.add(reason=full.scope)
        return Overloaded(
            f"{full.waiting_s:.0f} s of work {whose} wait already, and at most {most:g} may",
            # By then so much has been done, if nothing else comes.
            retry_after_s=max(1.0, full.waiting_s + job.work_s - most),
        )


def _seen_by(owner: Owner, job: Job | None, job_id: str) -> Job:
    if job is None or not job.is_seen_by(owner):
        raise JobNotFound(f"no job {job_id[:64]!r} is kept here")
    return job
