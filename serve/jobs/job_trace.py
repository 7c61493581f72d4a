"""JobTracer: what a job's trace says of it as a whole, once it is over.

The runs tell of themselves (`JobRun`), those that live to their end: of the others its events do.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipelines.catalog import ModelSpec
from pipelines.errors import StoreUnavailable
from pipelines.tracing.spans import Attribute, Span, named
from serve.generation.service import GenerationService
from serve.generation.trace_attributes import request_attributes
from serve.jobs.job import Job, JobEvent, JobStatus
from serve.jobs.store.job_store import JobStore
from serve.jobs.stored_request import stored_plan
from serve.settings.sections import Deadlines
from serve.tracing.job_spans import JOB, RUN, job_span_id
from serve.tracing.recorder import Recorder

LOST = "its runner was lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTracer:
    """Of one ingress replica. `deadlines` gives those of the moment."""

    store: JobStore
    generations: GenerationService
    recorder: Recorder
    spec: ModelSpec
    deadlines: Callable[[], Deadlines]

    async def over(self, job: Job) -> None:
        """Record the span of a job that is over."""
        if job.trace_id and self.recorder.records(job.trace_id):
            span = job_span(job, await self._begun(job), self._attributes(job))
            self.recorder.tell(job.trace_id, span)

    async def _begun(self, job: Job) -> list[JobEvent]:
        """When runners began it; not known while the store is away."""
        found: list[JobEvent] = []
        after = 0
        try:
            while events := await self.store.events(job.id, after=after):
                found += [event for event in events if event.type == f"job.{JobStatus.RUNNING}"]
                assert events[-1].number is not None
                after = events[-1].number
        except StoreUnavailable:
            return []
        return found

    def _attributes(self, job: Job) -> dict[str, Attribute]:
        plan = stored_plan(job.request, spec=self.spec, deadlines=self.deadlines())
        generations = self.generations
        asked = request_attributes(
            plan, generations.model, with_prompts=generations.records_prompts
        )
        return {**asked, **job_attributes(job)}


def job_attributes(job: Job) -> dict[str, Attribute]:
    """What became of a job that is over, and how it was to be run."""
    found: dict[str, Attribute] = named(
        {"job_id": job.id, "outcome": str(job.status), "priority": job.priority}
    )
    found["sluice.queued_s"] = _began(job) - job.created_at
    if job.tenant:
        found["sluice.tenant"] = job.tenant
    if job.attempts > 1:
        found["sluice.attempts"] = job.attempts
    if job.deadline is not None:
        found["sluice.deadline_ms"] = round(1000 * (job.deadline - job.created_at))
        if job.status is JobStatus.SUCCEEDED:
            found["sluice.deadline_met"] = _ended(job) <= job.deadline
    if job.outputs:  # "sluice.steps" are those that each image was asked for
        found["sluice.steps_run"] = sum(output.steps or 0 for output in job.outputs)
    if job.usage is not None:
        found |= {
            "gen_ai.usage.input_tokens": job.usage.input_tokens,
            "gen_ai.usage.output_tokens": job.usage.output_tokens,
            "sluice.device_seconds": round(job.usage.device_seconds, 6),
        }
    return found


def job_span(job: Job, begun: Sequence[JobEvent], attributes: dict[str, Attribute]) -> Span:
    """The span of a job that is over, with the time in which it waited, and each run that another
    one followed: `begun` are the events of their beginnings."""
    parts = [Span(name="queue.wait", start_ns=_ns(job.created_at), end_ns=_ns(_began(job)))]
    for this, after in itertools.pairwise(begun):
        attempt = this.data["attempt"]
        was_lost = after.data["attempt"] > attempt  # what is given back does not count
        how = {} if was_lost else {"outcome": "given_back"}
        parts.append(
            Span(
                name=RUN,
                start_ns=_ns(this.at),
                end_ns=_ns(after.at),
                attributes=named({"attempt": attempt, **how}),
                error=LOST if was_lost else None,
            )
        )
    return Span(
        name=JOB,
        id=job_span_id(job.id),
        start_ns=_ns(job.created_at),
        end_ns=_ns(_ended(job)),
        attributes=attributes,
        error=None if job.error is None else job.error.message,
        children=tuple(parts),
    )


def _began(job: Job) -> float:
    return _ended(job) if job.started_at is None else job.started_at


def _ended(job: Job) -> float:
    assert job.finished_at is not None
    return job.finished_at


def _ns(at: float) -> int:
    return round(1e9 * at)
