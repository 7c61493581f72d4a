"""Jobs and deliveries as the fields of Redis's hashes, all text, and back. "" is None."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from serve.jobs.job import Job, JobEvent
from serve.jobs.store.delivery_store import Delivery, DeliveryStatus
from serve.jobs.store.job_json import job_to_json, to_json
from serve.jobs.store.job_store import Bounds, Waiting
from serve.jobs.store.lanes import MICROSECONDS, Candidate, Lane, Queued, work_us
from serve.jobs.store.lease_watch import HeldJob
from serve.jobs.transitions import Transition

HELD_BY_NOBODY = {"holder": "", "token": "", "renewals": "0", "lease_s": "0"}

ONE_RUNNING = 1 << 41
"""As in indexes.lua: a tenant's place in turn is so much higher for each running job."""


def text(value: object) -> str:
    return "" if value is None else str(value)


def number(value: float | None) -> str:
    """So that the same number is read again."""
    return "" if value is None else repr(float(value))


def job_fields(job: Job) -> dict[str, str]:
    """What is searched for."""
    return {
        "tenant": job.tenant,
        "status": job.status,
        "priority": str(job.priority),
        "created_at": number(job.created_at),
        "finished_at": number(job.finished_at),
        "expires_at": number(job.expires_at),
        "images": str(job.num_images),
        "work_us": str(work_us(job.work_s)),
        "num_bytes": str(job.num_bytes),
        "idempotency_key": text(job.idempotency_key),
        "pending_action": text(job.pending_action),
        "last_event": str(job.last_event),
    }


def save_arguments(
    now: Transition,
    *,
    expected: Mapping[str, str] | None = None,
    bounds: Bounds | None = None,
    lease: Mapping[str, str] | None = None,
    passed_over: str | None = None,
    update: str | None = None,
    parts: Mapping[int, bytes] | None = None,
) -> list[str | bytes]:
    """For save.lua: what to write if the job is as `expected`, or a new one within `bounds`; with
    a `lease` it is claimed, and another `passed_over`. `update` is the id of one."""
    job = now.job
    wanted: dict[str, Any] = {
        "id": job.id,
        "operation": secrets.token_hex(8),
        "fields": job_fields(job) | dict(lease or {}),
        "expected": expected,
        "is_claim": lease is not None,
        **({} if passed_over is None else {"passed_over": passed_over}),
        **({} if update is None else {"update": update}),
        "events": [to_json([event.type, event.at, event.data]) for event in now.events],
    }
    if bounds is not None:
        wanted["fields"] |= HELD_BY_NOBODY
        wanted["bounds"] = [
            ["tenant", f"tenant:{job.tenant}", number(bounds.waiting_s_per_tenant * 1e6)],
            ["server", "total", number(bounds.waiting_s * 1e6)],
        ]
    if now.delivery is not None:
        wanted["delivery"] = delivery_fields(now.delivery)
    arguments: list[str | bytes] = [to_json(wanted), job_to_json(job)]
    for image, data in (parts or {}).items():
        arguments += [str(image), data]
    return arguments


def event(job_id: str, event_number: int, data: bytes) -> JobEvent:
    type_, at, body = json.loads(data)
    return JobEvent(job_id=job_id, number=event_number, type=type_, at=at, data=body)


def held_job(row: Sequence[bytes | None]) -> HeldJob:
    """A running job as next.lua answers it."""
    job_id, token, renewals, lease_s, priority, created_at, images, passed_over = map(_text, row)
    return HeldJob(
        id=job_id,
        token=token or None,
        renewals=int(renewals),
        lease_s=float(lease_s),
        priority=int(priority),
        created_at=float(created_at),
        images=int(images),
        passed_over=int(passed_over or 0),
    )


def candidate(row: Sequence[bytes | None]) -> Candidate | None:
    """A queued job as next.lua answers it; None for an empty one."""
    if not row:
        return None
    job_id, priority, images, passed_over = map(_text, row)
    return Candidate(job_id, int(priority), int(images), int(passed_over or 0))


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode()


def delivery_fields(delivery: Delivery) -> dict[str, str]:
    values = {field.name: getattr(delivery, field.name) for field in fields(delivery)}
    return {
        name: number(value) if isinstance(value, float) else text(value)
        for name, value in values.items()
    }


def delivery(fields_of: Mapping[bytes, bytes]) -> Delivery:
    values = {name.decode(): value.decode() for name, value in fields_of.items()}
    return Delivery(
        id=values["id"],
        job_id=values["job_id"],
        tenant=values["tenant"],
        url=values["url"],
        created_at=float(values["created_at"]),
        next_at=float(values["next_at"]),
        status=DeliveryStatus(values["status"]),
        attempts=int(values["attempts"]),
        last_error=values["last_error"] or None,
        last_status=int(values["last_status"]) if values["last_status"] else None,
    )


def lanes(priority: bytes, turns: list[bytes], jobs: list[bytes], work: list[bytes]) -> list[Lane]:
    """As waiting.lua answers those of one priority: each list has tenants and values in turn."""
    jobs_of, work_of = dict(pairs(jobs)), dict(pairs(work))
    return [
        Lane(
            priority=int(priority),
            tenant=tenant.decode(),
            jobs=int(jobs_of[tenant]),
            work_us=int(work_of.get(tenant, 0)),
            running=int(float(place)) // ONE_RUNNING,
            turn=int(float(place)) % ONE_RUNNING,
        )
        for tenant, place in pairs(turns)
    ]


def queued(job_id: bytes, priority: bytes, tenant: bytes, jobs: int, work_us: bytes) -> Queued:
    """As waiting.lua answers a job."""
    own = Waiting(jobs=jobs, work_s=int(work_us) / MICROSECONDS)
    return Queued(job_id.decode(), int(priority), tenant.decode(), own)


def pairs(flat: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)
