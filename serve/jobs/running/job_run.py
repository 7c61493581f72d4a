"""JobRun: one job that this replica holds, from its stored request to its end.

It makes the plan that any other runner would make, goes on from what earlier ones have stored, and
writes nothing more once another has taken over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from deployments.graph.steering.steering import Steering
from deployments.wire.checkpoint_file import unpack_part
from deployments.wire.parts import Part
from pipelines.catalog import ModelSpec
from pipelines.contracts import GenerationResult
from pipelines.errors import ModelNotFound, SluiceError, StageFailed, StoreUnavailable
from serve.generation.log import LogEntry
from serve.generation.plan import Plan
from serve.generation.service import GenerationService
from serve.jobs.job import Job, JobAction
from serve.jobs.job_trace import JobTracer
from serve.jobs.previews import Previews
from serve.jobs.retention import JobFiles
from serve.jobs.running.job_report import JobReport
from serve.jobs.running.lease_keeper import LeaseKeeper
from serve.jobs.running.outcome import (
    CANCELLED,
    Outcome,
    failed,
    outcome_of_error,
    outcome_of_result,
    unforeseen,
    unstored,
)
from serve.jobs.running.retry_budget import RetryBudget
from serve.jobs.store.job_store import JobStore, Lease, LeaseLost
from serve.jobs.stored_request import stored_plan
from serve.settings.sections import Deadlines
from serve.tracing.job_spans import RUN, job_span_id
from serve.tracing.recorder import RequestTrace

MAX_ATTEMPTS = 5
"""Runners that may be lost with a job; it may be what they die of."""

_WITHDRAWN = "cancelled"

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSetting:
    """What every run of this replica works with. `deadlines` gives those of the moment, `now` Unix
    time."""

    store: JobStore
    files: JobFiles
    generations: GenerationService
    tracer: JobTracer
    spec: ModelSpec
    served_names: tuple[str, ...]
    deadlines: Callable[[], Deadlines]
    now: Callable[[], float]


class JobRun:
    """Runs the job of `lease` once; see the module."""

    def __init__(self, lease: Lease, setting: RunSetting) -> None:
        self._lease = lease
        self._setting = setting
        self._steering = Steering()
        self._drawing: asyncio.Task[GenerationResult] | None = None
        self._is_withdrawn = False
        self.previews = Previews(lease.token, self._steering.previews)
        self._report = JobReport(
            setting.store,
            lease,
            self.previews,
            self.on_action,
            parts=_unpacked(lease),
            now=setting.now,
        )

    @property
    def job_id(self) -> str:
        return self._job.id

    @property
    def num_images(self) -> int:
        return self._job.num_images

    @property
    def _job(self) -> Job:
        return self._lease.job

    def on_action(self, action: JobAction) -> None:
        """The owner wants this, from now on; whether it was said before makes no difference."""
        if action is JobAction.KEEP:
            self._steering.keep()
        elif not self._is_withdrawn:
            self._is_withdrawn = True
            if self._drawing is not None:
                self._drawing.cancel()

    async def run(self) -> None:
        """Until the job is over, or another runner has it. Cancelled, it gives the job back with
        all that is drawn of it."""
        try:
            await self._run_held()
        except asyncio.CancelledError:
            await self._give_back()
            raise
        finally:
            self.previews.close()

    async def _run_held(self) -> None:
        keeper = LeaseKeeper(self._setting.store, self._lease, self.on_action)
        try:
            async with asyncio.TaskGroup() as tasks:
                beside = [tasks.create_task(keeper.run()), tasks.create_task(self._report.run())]
                job = await self._report.close(await self._outcome())
                for task in beside:
                    task.cancel()
        except* LeaseLost:
            logger.info("job %s: another runner has it, or it is over", self._job.id)
            await self._delete_unnamed()
        else:  # not above: a job that is over has no lease to renew any more
            await self._setting.tracer.over(job)

    async def _delete_unnamed(self) -> None:
        """Of the files that were stored here, those that the job does not name: another runner
        draws their images anew, and nobody else knows of them. What it names does not change by
        what this runner has written, as nothing of that is taken any more."""
        job_id = self._job.id
        try:
            job = await self._setting.store.get(job_id)
            named = set[str]() if job is None else {each.file_id for each in job.outputs}
            for file_id in self._report.stored_here - named:
                await asyncio.to_thread(self._setting.files.delete, file_id)
        except (StoreUnavailable, StageFailed) as error:
            logger.warning(
                "job %s: its files that nobody names stay for a while: %s", job_id, error
            )

    async def _outcome(self) -> Outcome:
        """How the job ends; see `outcome.py`."""
        job = self._job
        if job.attempts > MAX_ATTEMPTS:
            return failed(f"its runner was lost {MAX_ATTEMPTS} times")
        if job.pending_action is not None:
            self.on_action(job.pending_action)
        if self._is_withdrawn:  # between the claim and now, or before
            return CANCELLED
        try:
            self._drawing = asyncio.create_task(self._draw(self._plan()))
            return outcome_of_result(await self._drawing)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._is_withdrawn or (task is not None and task.cancelling()):
                raise
            return CANCELLED
        except SluiceError as error:
            return outcome_of_error(error)
        except Exception:  # the boundary of the job: it must not stay running for ever
            logger.exception("job %s: unforeseen error", job.id)
            return unforeseen()

    def _plan(self) -> Plan:
        request, served = self._job.request, self._setting.served_names
        if request["model"] not in served:
            raise ModelNotFound(
                f"model: {request['model']!r} is not served here any more; served: {served[0]}",
                model=request["model"],
            )
        return stored_plan(request, spec=self._setting.spec, deadlines=self._setting.deadlines())

    async def _draw(self, plan: Plan) -> GenerationResult:
        """The images, tried again where time may heal what went wrong."""
        budget = RetryBudget()
        while True:
            trace = self._setting.tracer.recorder.go_on(
                RUN, self._job.trace_id, job_span_id(self._job.id)
            )
            try:
                return await self._try(plan, trace)
            except SluiceError as error:
                pause_s = budget.pause_s(error)
                if pause_s is None:
                    raise
                logger.info("job %s: again in %.1f s: %s", self._job.id, pause_s, error)
            finally:
                self._setting.tracer.recorder.end(trace)
            await asyncio.sleep(pause_s)

    async def _try(self, plan: Plan, trace: RequestTrace) -> GenerationResult:
        job, generations, parts = self._job, self._setting.generations, self._report.parts
        trace.root.attributes |= {"sluice.job_id": job.id, "sluice.attempt": job.attempts}
        # A deadline of the job's own counts from its submission; another only orders the work.
        is_asked = plan.requested.is_deadline_asked
        entry = LogEntry(
            request_id=job.id,
            trace=trace,
            arrived=job.created_at if is_asked else self._setting.now(),
            user=job.user,
            tenant=job.tenant,
            cancelled_as=lambda: _WITHDRAWN if self._is_withdrawn else "given_back",
        )
        terms = plan.requested.terms(tenant=job.tenant, arrived=entry.arrived)
        with generations.logged(entry):
            answer = await generations.generate(
                plan, terms, entry, self._report, resume=dict(parts), steering=self._steering
            )
            if (error := unstored(answer.result.images)) is not None:
                raise error
        return answer.result

    async def _give_back(self) -> None:
        """Leave the job to others. This runner was not lost, so it does not count as one."""
        store, job = self._setting.store, self._job
        try:
            await self._report.write({"attempts": job.attempts - 1})
            await store.release(job.id, self._lease.token)
        except LeaseLost:
            pass
        except StoreUnavailable as error:
            logger.warning("job %s: waits until its lease runs out: %s", job.id, error)


def _unpacked(lease: Lease) -> Mapping[int, Part]:
    """What earlier runners have stored; an image whose part is damaged is drawn anew."""
    parts: dict[int, Part] = {}
    for image, data in lease.parts.items():
        try:
            parts[image] = unpack_part(data)
        except ValueError as error:
            logger.warning("job %s: image %d is drawn anew: %s", lease.job.id, image, error)
    return parts
