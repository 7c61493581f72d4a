"""Jobs, their events and parts as rows. Every function is a part of its caller's transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from sqlite3 import Connection

from serve.jobs.job import Job, JobEvent, JobStatus, Owner
from serve.jobs.store.job_json import job_from_json, job_to_json, to_json
from serve.jobs.store.job_store import Bounds, LeaseLost, SubmittedJob
from serve.jobs.store.lanes import work_us
from serve.jobs.store.sqlite import deliveries, queue
from serve.jobs.transitions import Transition, replayed


def secret(db: Connection) -> bytes:
    (value,) = db.execute("SELECT value FROM secrets").fetchone()
    return value


def submit(db: Connection, new: Transition, bounds: Bounds) -> SubmittedJob:
    """Raises IdempotencyKeyReused and QueueFull."""
    job = new.job
    if job.idempotency_key is not None:
        earlier = find(db, Owner(tenant=job.tenant), job.idempotency_key)
        if earlier is not None:
            return replayed(earlier, job)
    queue.check_bounds(db, job, bounds)
    save(db, None, new)
    return SubmittedJob(job=job, is_replay=False)


def save(db: Connection, before: Job | None, now: Transition) -> None:
    """Write what has become of a job: itself, its new events, the delivery, and all sums."""
    job = now.job
    values = {
        "id": job.id,
        "tenant": job.tenant,
        "status": job.status,
        "priority": job.priority,
        "created_at": job.created_at,
        "finished_at": job.finished_at,
        "expires_at": job.expires_at,
        "images": job.num_images,
        "work_us": work_us(job.work_s),
        "num_bytes": job.num_bytes,
        "idempotency_key": job.idempotency_key,
        "pending_action": job.pending_action,
        "last_event": job.last_event,
        "document": job_to_json(job),
    }
    if before is None:
        names = ", ".join(values)
        db.execute(f"INSERT INTO jobs ({names}) VALUES (:{', :'.join(values)})", values)
    else:
        db.execute(
            f"UPDATE jobs SET {', '.join(f'{name} = :{name}' for name in values)} WHERE id = :id",
            values,
        )
    db.executemany(
        "INSERT INTO events VALUES (?, ?, ?, ?, ?)",
        [(job.id, e.number, e.type, e.at, to_json(e.data)) for e in now.events],
    )
    queue.count(db, before, job)
    if job.status.is_final:
        db.execute("DELETE FROM parts WHERE job_id = ?", (job.id,))
        db.execute("UPDATE jobs SET holder = NULL, token = NULL WHERE id = ?", (job.id,))
    if now.delivery is not None:
        deliveries.add(db, now.delivery)


def get(db: Connection, job_id: str) -> Job | None:
    row = db.execute("SELECT document FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return None if row is None else job_from_json(row[0])


def held(db: Connection, job_id: str, token: str) -> Job:
    """The job, if it is held under `token`; raises LeaseLost."""
    row = db.execute(
        "SELECT document FROM jobs WHERE id = ? AND token = ? AND status = 'running'",
        (job_id, token),
    ).fetchone()
    if row is None:
        raise LeaseLost(job_id)
    return job_from_json(row[0])


def updated_by(db: Connection, job_id: str, update_id: str) -> Job | None:
    """The job, if that update is the last that it had."""
    row = db.execute(
        "SELECT document FROM jobs WHERE id = ? AND last_update = ?", (job_id, update_id)
    ).fetchone()
    return None if row is None else job_from_json(row[0])


def find(db: Connection, owner: Owner, idempotency_key: str) -> Job | None:
    row = db.execute(
        "SELECT document FROM jobs WHERE tenant = ? AND idempotency_key = ?",
        (owner.tenant, idempotency_key),
    ).fetchone()
    return None if row is None else job_from_json(row[0])


def page(
    db: Connection,
    owner: Owner,
    statuses: frozenset[JobStatus] | None,
    before: tuple[float, str] | None,
    limit: int,
) -> tuple[Job, ...]:
    if not owner.tenant:
        return ()
    wanted = sorted(JobStatus if statuses is None else statuses)
    rows = db.execute(
        f"""SELECT document FROM jobs WHERE tenant = ?
            AND status IN ({", ".join("?" * len(wanted))})
            {"" if before is None else "AND (created_at, id) < (?, ?)"}
            ORDER BY created_at DESC, id DESC LIMIT ?""",
        (owner.tenant, *wanted, *(before or ()), limit),
    )
    return tuple(job_from_json(document) for (document,) in rows)


def events(db: Connection, job_id: str, after: int, limit: int) -> tuple[JobEvent, ...]:
    rows = db.execute(
        "SELECT number, type, at, data FROM events WHERE job_id = ? AND number > ?"
        " ORDER BY number LIMIT ?",
        (job_id, after, limit),
    )
    return tuple(
        JobEvent(job_id=job_id, number=number, type=type_, at=at, data=json.loads(data))
        for number, type_, at, data in rows
    )


def newest_events(db: Connection, job_ids: Sequence[str]) -> dict[str, int]:
    """The number of each job's last event; none of jobs that are gone."""
    return dict(
        db.execute(
            "SELECT id, last_event FROM jobs WHERE id IN (SELECT value FROM json_each(?))",
            (to_json(list(job_ids)),),
        )
    )


def save_parts(db: Connection, job_id: str, parts: Mapping[int, bytes]) -> None:
    db.executemany(
        "INSERT INTO parts VALUES (?, ?, ?)"
        " ON CONFLICT (job_id, image) DO UPDATE SET data = excluded.data",
        [(job_id, image, data) for image, data in parts.items()],
    )


def parts(db: Connection, job_id: str) -> dict[int, bytes]:
    return dict(db.execute("SELECT image, data FROM parts WHERE job_id = ?", (job_id,)))


def delete(db: Connection, job_id: str) -> Job | None:
    """Raises ValueError for a job that is not over."""
    job = get(db, job_id)
    if job is None:
        return None
    if not job.status.is_final:
        raise ValueError(f"job {job_id} is {job.status}: only one that is over can be deleted")
    deliveries.outlive(db, job_id)
    db.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
    queue.count(db, job, None)
    return job


def expired(db: Connection, at: float, limit: int) -> tuple[Job, ...]:
    rows = db.execute(
        "SELECT document FROM jobs WHERE expires_at <= ? ORDER BY expires_at LIMIT ?", (at, limit)
    )
    return tuple(job_from_json(document) for (document,) in rows)


def over_bytes(db: Connection, max_bytes: int, limit: int) -> tuple[Job, ...]:
    chosen: list[Job] = []
    tenants = db.execute(
        "SELECT tenant, num_bytes FROM tenants WHERE num_bytes > ? ORDER BY num_bytes DESC",
        (max_bytes,),
    )
    for tenant, num_bytes in tenants:
        oldest = db.execute(
            """SELECT document, num_bytes FROM jobs
               WHERE tenant = ? AND finished_at IS NOT NULL AND num_bytes > 0
               ORDER BY finished_at, id""",
            (tenant,),
        )
        for document, freed in oldest:
            if num_bytes <= max_bytes or len(chosen) == limit:
                break
            chosen.append(job_from_json(document))
            num_bytes -= freed
    return tuple(chosen)
