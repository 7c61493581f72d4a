"""Who is next: lanes, leases and sums. Every function is a part of its caller's transaction."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from sqlite3 import Connection
from typing import NamedTuple

from serve.jobs.job import Job, JobStatus
from serve.jobs.store.job_store import Bounds, Waiting
from serve.jobs.store.lanes import (
    MICROSECONDS,
    NEWCOMER,
    Candidate,
    Lane,
    Queued,
    all_ahead,
    check_room,
    choose,
    first_of,
    work_us,
)
from serve.jobs.store.lease_watch import HeldJob, LeaseWatch

LANE = "priority, tenant, jobs, work_us, running, turn"


def count(db: Connection, before: Job | None, after: Job | None) -> None:
    """Bring the sums of a job's tenant and lane from what it was to what it is."""
    job = after or before
    assert job is not None
    if before is None:
        db.execute(
            "INSERT INTO tenants (tenant, turn) VALUES (?, ?) ON CONFLICT DO NOTHING",
            (job.tenant, NEWCOMER + _next_turn(db)),
        )
    was, now = _counts(before), _counts(after)
    if was == now:
        return
    db.execute(
        "UPDATE tenants SET running = running + ?, num_bytes = num_bytes + ? WHERE tenant = ?",
        (now.running - was.running, now.num_bytes - was.num_bytes, job.tenant),
    )
    db.execute(
        f"""INSERT INTO lanes ({LANE}) SELECT ?, tenant, ?, ?, running, turn FROM tenants
            WHERE tenant = ?
            ON CONFLICT DO UPDATE SET jobs = jobs + excluded.jobs,
              work_us = work_us + excluded.work_us""",
        (job.priority, now.queued - was.queued, now.work_us - was.work_us, job.tenant),
    )
    db.execute(
        "DELETE FROM lanes WHERE priority = ? AND tenant = ? AND jobs = 0",
        (job.priority, job.tenant),
    )
    if now.running != was.running:
        _copy_to_lanes(db, job.tenant)
    if after is None:
        db.execute(
            "DELETE FROM tenants WHERE tenant = ?1"
            " AND NOT EXISTS (SELECT 1 FROM jobs WHERE tenant = ?1)",
            (job.tenant,),
        )


class _Counts(NamedTuple):
    queued: int
    work_us: int
    running: int
    num_bytes: int


def _counts(job: Job | None) -> _Counts:
    """What a job adds to the sums."""
    if job is None:
        return _Counts(0, 0, 0, 0)
    if job.status is JobStatus.QUEUED:
        return _Counts(1, work_us(job.work_s), 0, 0)
    if job.status is JobStatus.RUNNING:
        return _Counts(0, 0, 1, 0)
    return _Counts(0, 0, 0, job.num_bytes)


def served(db: Connection, tenant: str) -> None:
    """The tenant has had its turn."""
    db.execute("UPDATE tenants SET turn = ? WHERE tenant = ?", (_next_turn(db), tenant))
    _copy_to_lanes(db, tenant)


def _next_turn(db: Connection) -> int:
    (turn,) = db.execute("UPDATE turns SET last = last + 1 RETURNING last").fetchone()
    return turn


def _copy_to_lanes(db: Connection, tenant: str) -> None:
    db.execute(
        """UPDATE lanes SET (running, turn) =
             (SELECT running, turn FROM tenants WHERE tenant = ?1) WHERE tenant = ?1""",
        (tenant,),
    )


def next_job(db: Connection, watch: LeaseWatch, free: int) -> str | None:
    """The job to claim. One that is passed over by that is noted."""
    abandoned = watch.abandoned(
        HeldJob(*row)
        for row in db.execute(
            "SELECT id, token, renewals, lease_s, priority, created_at, images, passed_over"
            " FROM jobs WHERE status = 'running'"
        )
    )
    first = _first(db, abandoned, sys.maxsize)
    fits = first is None or first.images <= free
    choice = choose(first, first if fits else _first(db, abandoned, free))
    if choice.passed_over is not None:
        db.execute(
            "UPDATE jobs SET passed_over = passed_over + 1 WHERE id = ?", (choice.passed_over.id,)
        )
    return None if choice.job is None else choice.job.id


def _first(db: Connection, abandoned: Sequence[Candidate], free: int) -> Candidate | None:
    """The first of at most `free` images."""
    left = next((job for job in abandoned if job.images <= free), None)
    for priority, tenant in db.execute(
        "SELECT priority, tenant FROM lanes ORDER BY priority DESC, running, turn"
    ):
        if left is not None and left.priority >= priority:
            break
        row = db.execute(
            """SELECT id, priority, images, passed_over FROM jobs WHERE status = 'queued'
               AND priority = ? AND tenant = ? AND images <= ? ORDER BY created_at, id LIMIT 1""",
            (priority, tenant, free),
        ).fetchone()
        if row is not None:
            return first_of(left, Candidate(*row))
    return left


def check_bounds(db: Connection, job: Job, bounds: Bounds) -> None:
    """Raises QueueFull."""
    check_room("tenant", waiting(db, job.tenant), job, bounds.waiting_s_per_tenant)
    check_room("server", waiting(db, None), job, bounds.waiting_s)


def waiting(db: Connection, tenant: str | None) -> Waiting:
    jobs, work = db.execute(
        "SELECT total(jobs), total(work_us) FROM lanes"
        + ("" if tenant is None else " WHERE tenant = ?"),
        () if tenant is None else (tenant,),
    ).fetchone()
    return Waiting(jobs=int(jobs), work_s=work / MICROSECONDS)


def active(db: Connection) -> dict[tuple[str, JobStatus], int]:
    rows = db.execute(
        """SELECT tenant, 'queued', sum(jobs) FROM lanes GROUP BY tenant
           UNION ALL SELECT tenant, 'running', running FROM tenants WHERE running > 0"""
    )
    return {(tenant, JobStatus(status)): jobs for tenant, status, jobs in rows}


_BEFORE = """
WITH asked AS (
  SELECT id, priority, tenant, created_at FROM jobs
  WHERE status = 'queued' AND id IN (SELECT value FROM json_each(?))
)
SELECT id, priority, tenant, jobs, work_us FROM (
  SELECT id, priority, tenant, count(*) OVER earlier AS jobs, total(work_us) OVER earlier AS work_us
  FROM jobs
  WHERE status = 'queued' AND (priority, tenant) IN (SELECT priority, tenant FROM asked)
    AND created_at <= (SELECT max(created_at) FROM asked)
  WINDOW earlier AS (
    PARTITION BY priority, tenant ORDER BY created_at, id
    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
  )
) WHERE id IN (SELECT id FROM asked)
"""
"""One pass over the lanes of the jobs that are asked for, as far as the last of them."""


def waiting_before(
    db: Connection, job_ids: Collection[str], tenant: str | None
) -> dict[str, Waiting]:
    rows = db.execute(_BEFORE, (json.dumps(list(job_ids)),)).fetchall()
    queued = [
        Queued(job_id, priority, owner, Waiting(jobs=jobs, work_s=work / MICROSECONDS))
        for job_id, priority, owner, jobs, work in rows
    ]
    if not queued:
        return {}
    lowest = min(each.priority for each in queued)
    lanes = db.execute(f"SELECT {LANE} FROM lanes WHERE priority >= ?", (lowest,))
    return all_ahead([Lane(*row) for row in lanes], queued, tenant)
