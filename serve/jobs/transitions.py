"""What may happen to a job, and what it is then. Pure: no store, no clock; all stores follow it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from pipelines.errors import IdempotencyKeyReused
from serve.jobs.job import Job, JobAction, JobEvent, JobStatus
from serve.jobs.store.delivery_store import Delivery
from serve.jobs.store.job_store import SubmittedJob, Update

FOLLOWERS: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.CANCELLED}),
    JobStatus.RUNNING: frozenset(status for status in JobStatus if status != JobStatus.QUEUED),
    **{status: frozenset() for status in JobStatus if status.is_final},
}
"""Which status may come after which. A job is never queued again: one that was given back stays
running, held by nobody."""

CHANGEABLE = frozenset(field.name for field in fields(Job)) - {
    "id",
    "tenant",
    "kind",
    "body_sha256",
    "idempotency_key",
    "webhook",
    "priority",
    "created_at",
    "started_at",
    "finished_at",
    "expires_at",
    "last_event",
}
"""Fields that a runner may set: the others say whose a job is, or are the store's to set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A job as it is from now on, its new `events`, and the `delivery` that this causes."""

    job: Job
    events: tuple[JobEvent, ...] = ()
    delivery: Delivery | None = None


def submitted(job: Job) -> Transition:
    """A new job. Raises ValueError if it is not one."""
    if job.status is not JobStatus.QUEUED or job.last_event != 0:
        raise ValueError(f"job {job.id}: a new job is queued and has no events")
    return _with_events(job, job.created_at, ("job.queued", {}))


def replayed(earlier: Job, job: Job) -> SubmittedJob:
    """`job` came with the idempotency key of `earlier`. Raises IdempotencyKeyReused if they are
    not the same."""
    if earlier.body_sha256 != job.body_sha256:
        raise IdempotencyKeyReused(
            f"{IdempotencyKeyReused.param}: this key came with another body before; send a new key"
            " with a new request"
        )
    return SubmittedJob(job=earlier, is_replay=earlier.id != job.id)


def asked(job: Job, action: JobAction, *, at: float, ttl_s: float) -> Transition:
    """The owner wants `action`: a queued job is cancelled at once, a running one by its runner."""
    if job.status.is_final or job.pending_action in (action, JobAction.CANCEL):
        return Transition(job=job)
    if job.status is JobStatus.QUEUED and action is JobAction.CANCEL:
        return _over(replace(job, status=JobStatus.CANCELLED), at=at, ttl_s=ttl_s)
    return Transition(job=replace(job, pending_action=action))


def claimed(job: Job, *, at: float) -> Transition:
    """A runner begins it, or goes on with it."""
    begun = replace(
        job,
        status=JobStatus.RUNNING,
        started_at=at if job.started_at is None else job.started_at,
        attempts=job.attempts + 1,
    )
    return _with_events(begun, at, ("job.running", {"attempt": begun.attempts}))


def updated(job: Job, update: Update, *, ttl_s: float) -> Transition:
    """What its runner says. Raises ValueError for a field that is not a runner's to set, a status
    that cannot follow, and a final event that is not the last of a job that is over."""
    if wrong := sorted(set(update.changes) - CHANGEABLE):
        raise ValueError(f"job {job.id}: an update cannot set {', '.join(wrong)}")
    changed = replace(job, **update.changes)
    if changed.status not in FOLLOWERS[job.status]:
        raise ValueError(f"job {job.id}: {changed.status} cannot follow {job.status}")
    events = tuple(
        (type_, dict(data)) for type_, data in update.events if not _is_known(job, type_, data)
    )
    final = [type_ for type_, _ in events if type_ in FINAL_EVENTS]
    if not changed.status.is_final:
        if final:
            raise ValueError(f"job {job.id}: {final[0]}, but it is {changed.status}")
        return _with_events(changed, update.at, *events)
    if final and (len(final) > 1 or events[-1][0] != f"job.{changed.status}"):
        raise ValueError(f"job {job.id}: {final[0]} is not the last event of one {changed.status}")
    return _over(changed, *events, at=update.at, ttl_s=ttl_s)


def _is_known(job: Job, type_: str, data: Mapping[str, Any]) -> bool:
    """Whether an event is that of an image which the job has already: its runner had no answer to
    the update that brought it, and sends it again."""
    image = data.get("output", {}).get("image") if type_ == "job.image" else None
    return any(output.image == image for output in job.outputs)


FINAL_EVENTS = frozenset(f"job.{status}" for status in JobStatus if status.is_final)


def _over(job: Job, *events: tuple[str, dict[str, Any]], at: float, ttl_s: float) -> Transition:
    """A job with its final status: its last event is added unless it is there already."""
    over = replace(job, pending_action=None, finished_at=at, expires_at=at + ttl_s)
    if not events or events[-1][0] not in FINAL_EVENTS:
        events = (*events, (f"job.{job.status}", {}))
    return replace(_with_events(over, at, *events), delivery=_delivery(over, at))


def _delivery(job: Job, at: float) -> Delivery | None:
    if job.webhook is None:
        return None
    return Delivery(
        id=f"msg_{job.id.removeprefix('job_')}",
        job_id=job.id,
        tenant=job.tenant,
        url=job.webhook,
        created_at=at,
        next_at=at,
    )


def _with_events(job: Job, at: float, *events: tuple[str, dict[str, Any]]) -> Transition:
    """Number the events on from the job's last."""
    numbered = tuple(
        JobEvent(job_id=job.id, number=number, type=type_, at=at, data=data)
        for number, (type_, data) in enumerate(events, start=job.last_event + 1)
    )
    return Transition(job=replace(job, last_event=job.last_event + len(numbered)), events=numbered)
