"""SqliteStore: jobs in a file, for all ingress replicas of one machine.

The file must be on a disk of that machine: SQLite's write-ahead log does not work over a network.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pipelines.errors import StoreUnavailable
from serve.jobs import transitions
from serve.jobs.job import Job, JobAction, JobEvent, JobStatus, Owner
from serve.jobs.store.changes import Changes
from serve.jobs.store.delivery_store import (
    Attempted,
    Delivery,
    DeliveryStatus,
    DueDelivery,
)
from serve.jobs.store.job_store import (
    Bounds,
    Lease,
    LeaseLost,
    SubmittedJob,
    Update,
    Waiting,
)
from serve.jobs.store.lease_watch import LeaseWatch
from serve.jobs.store.sqlite import deliveries, jobs, queue
from serve.jobs.store.sqlite.database import Database
from serve.jobs.store.sqlite.threads import Readers, Writer

T = TypeVar("T")


class SqliteStore:
    """A JobStore and DeliveryStore. Jobs are forgotten `ttl_s` after they are over."""

    def __init__(
        self,
        path: Path,
        *,
        ttl_s: float,
        busy_timeout_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = Database(path, busy_timeout_s=busy_timeout_s)
        self._ttl_s = ttl_s
        self._watch = LeaseWatch(clock)  # the writer's thread alone looks
        self._changes = Changes(self._newest_events)
        self._writer: Writer | None = None
        self._readers: Readers | None = None

    async def open(self) -> None:
        connection = await asyncio.to_thread(self._database.prepare)
        self._writer = Writer(self._database, connection)
        self._readers = Readers(self._database)

    async def close(self) -> None:
        await self._changes.close()
        # Readers first: the last connection to close is one that may clear the log away.
        for threads in (self._readers, self._writer):
            if threads is not None:
                await asyncio.to_thread(threads.close)
        self._readers = self._writer = None

    async def secret(self) -> bytes:
        return await self._read(jobs.secret)

    async def submit(self, job: Job, bounds: Bounds) -> SubmittedJob:
        return await self._write(jobs.submit, transitions.submitted(job), bounds)

    async def get(self, job_id: str) -> Job | None:
        return await self._read(jobs.get, job_id)

    async def find(self, owner: Owner, idempotency_key: str) -> Job | None:
        return await self._read(jobs.find, owner, idempotency_key)

    async def page(
        self,
        owner: Owner,
        *,
        statuses: frozenset[JobStatus] | None = None,
        before: tuple[float, str] | None = None,
        limit: int = 20,
    ) -> tuple[Job, ...]:
        return await self._read(jobs.page, owner, statuses, before, limit)

    async def events(self, job_id: str, *, after: int, limit: int = 500) -> tuple[JobEvent, ...]:
        return await self._read(jobs.events, job_id, after, limit)

    async def changed(self, job_id: str, *, after: int, timeout_s: float) -> bool:
        return await self._changes.wait(job_id, after=after, timeout_s=timeout_s)

    async def ask(self, job_id: str, action: JobAction, at: float) -> Job | None:
        def work(db: sqlite3.Connection) -> Job | None:
            job = jobs.get(db, job_id)
            if job is None:
                return None
            asked = transitions.asked(job, action, at=at, ttl_s=self._ttl_s)
            if asked.job != job:
                jobs.save(db, job, asked)
            return asked.job

        return self._tell(await self._write(work))

    async def claim(self, holder: str, *, lease_s: float, at: float, free: int) -> Lease | None:
        token = secrets.token_hex(16)

        def work(db: sqlite3.Connection) -> Lease | None:
            job_id = queue.next_job(db, self._watch, free)
            job = None if job_id is None else jobs.get(db, job_id)
            if job is None:
                return None
            claimed = transitions.claimed(job, at=at)
            jobs.save(db, job, claimed)
            db.execute(
                "UPDATE jobs SET holder = ?, token = ?, lease_s = ?, passed_over = 0 WHERE id = ?",
                (holder, token, lease_s, job.id),
            )
            queue.served(db, job.tenant)
            return Lease(job=claimed.job, token=token, parts=jobs.parts(db, job.id))

        try:
            lease = await self._write(work)
        except StoreUnavailable:
            self._watch.forget()
            raise
        if lease is not None:
            self._tell(lease.job)
        return lease

    async def renew(self, job_id: str, token: str, *, lease_s: float) -> JobAction | None:
        def work(db: sqlite3.Connection) -> JobAction | None:
            row = db.execute(
                """UPDATE jobs SET renewals = renewals + 1, lease_s = ?
                   WHERE id = ? AND token = ? AND status = 'running' RETURNING pending_action""",
                (lease_s, job_id, token),
            ).fetchone()
            if row is None:
                raise LeaseLost(job_id)
            return None if row[0] is None else JobAction(row[0])

        return await self._write(work, is_durable=False)

    async def update(self, job_id: str, token: str, update: Update) -> Job:
        def work(db: sqlite3.Connection) -> Job:
            if (job := jobs.updated_by(db, job_id, update.id)) is not None:
                return job
            job = jobs.held(db, job_id, token)
            updated = transitions.updated(job, update, ttl_s=self._ttl_s)
            jobs.save_parts(db, job_id, update.parts or {})
            jobs.save(db, job, updated)
            db.execute("UPDATE jobs SET last_update = ? WHERE id = ?", (update.id, job_id))
            return updated.job

        job = await self._write(work)
        self._tell(job)
        return job

    async def release(self, job_id: str, token: str) -> None:
        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE jobs SET holder = NULL, token = NULL WHERE id = ? AND token = ?",
                (job_id, token),
            )

        await self._write(work, is_durable=False)

    async def delete(self, job_id: str) -> Job | None:
        job = await self._write(jobs.delete, job_id)
        self._changes.tell(job_id, None)
        return job

    async def expired(self, *, at: float, limit: int = 100) -> tuple[Job, ...]:
        return await self._read(jobs.expired, at, limit)

    async def over_bytes(self, max_bytes: int, *, limit: int = 100) -> tuple[Job, ...]:
        return await self._read(jobs.over_bytes, max_bytes, limit)

    async def waiting(self, *, tenant: str | None = None) -> Waiting:
        return await self._read(queue.waiting, tenant)

    async def waiting_before(
        self, job_ids: Collection[str], *, tenant: str | None = None
    ) -> Mapping[str, Waiting]:
        return await self._read(queue.waiting_before, job_ids, tenant)

    async def active(self) -> Mapping[tuple[str, JobStatus], int]:
        return await self._read(queue.active)

    async def claim_delivery(self, *, at: float, lease_s: float) -> DueDelivery | None:
        return await self._write(deliveries.claim, at, lease_s)

    async def attempted(self, delivery: Delivery, outcome: Attempted) -> None:
        await self._write(deliveries.attempted, delivery, outcome)

    async def deliveries(
        self, owner: Owner, *, status: DeliveryStatus | None = None, limit: int = 100
    ) -> tuple[Delivery, ...]:
        return await self._read(deliveries.of_owner, owner, status, limit)

    async def redeliver(self, owner: Owner, delivery_id: str, *, at: float) -> Delivery | None:
        return await self._write(deliveries.redeliver, owner, delivery_id, at)

    def _tell(self, job: Job | None) -> Job | None:
        if job is not None:
            self._changes.tell(job.id, job.last_event)
        return job

    async def _newest_events(self, job_ids: Sequence[str]) -> Mapping[str, int]:
        return await self._read(jobs.newest_events, job_ids)

    async def _write(
        self, work: Callable[..., T], *arguments: object, is_durable: bool = True
    ) -> T:
        if self._writer is None:
            raise StoreUnavailable(f"the job store {self._database.path} is not open")
        return await self._writer.run(
            lambda connection: work(connection, *arguments), is_durable=is_durable
        )

    async def _read(self, work: Callable[..., T], *arguments: object) -> T:
        if self._readers is None:
            raise StoreUnavailable(f"the job store {self._database.path} is not open")
        return await self._readers.run(lambda connection: work(connection, *arguments))
