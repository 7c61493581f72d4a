"""RedisStore: jobs in a Redis. What becomes of a job is decided here and written by a script, which
writes nothing if the job has changed meanwhile; then it is decided anew."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from pipelines.errors import StoreUnavailable
from serve.jobs import transitions
from serve.jobs.job import Job, JobAction, JobEvent, JobStatus, Owner
from serve.jobs.store.changes import Changes
from serve.jobs.store.job_json import job_from_json
from serve.jobs.store.job_store import (
    Bounds,
    Lease,
    LeaseLost,
    QueueFull,
    SubmittedJob,
    Update,
    Waiting,
)
from serve.jobs.store.lanes import MICROSECONDS, all_ahead, choose, first_of
from serve.jobs.store.lease_watch import LeaseWatch
from serve.jobs.store.redis import records
from serve.jobs.store.redis.connection import RedisConnection
from serve.jobs.store.redis.deliveries import RedisDeliveries


class RedisStore(RedisDeliveries):
    """A JobStore and DeliveryStore. Jobs are forgotten `ttl_s` after they are over. All keys begin
    with `prefix` in braces."""

    def __init__(
        self,
        url: str,
        *,
        ttl_s: float,
        prefix: str = "sluice",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(RedisConnection(url, prefix=prefix))
        self._ttl_s = ttl_s
        self._watch = LeaseWatch(clock)
        self._changes = Changes(self._newest_events)

    async def open(self) -> None:
        await self._redis.open()

    async def close(self) -> None:
        await self._changes.close()
        await self._redis.close()

    async def secret(self) -> bytes:
        key, new = self._redis.key("secret"), secrets.token_bytes(32)
        await self._redis.call(lambda redis: redis.set(key, new, nx=True))
        return await self._redis.call(lambda redis: redis.get(key))

    async def submit(self, job: Job, bounds: Bounds) -> SubmittedJob:
        new = transitions.submitted(job)
        match await self._redis.run("save", *records.save_arguments(new, bounds=bounds)):
            case [b"replay", document]:
                return transitions.replayed(job_from_json(document), job)
            case [b"full", scope, waiting_us]:
                where = "tenant" if scope == b"tenant" else "server"
                raise QueueFull(where, int(waiting_us) / MICROSECONDS)
            case [b"saved"]:
                return SubmittedJob(job=new.job, is_replay=False)
            case answer:
                raise ValueError(f"job {job.id} is there already: {answer}")

    async def get(self, job_id: str) -> Job | None:
        key = self._redis.key("job", job_id)
        document = await self._redis.call(lambda redis: redis.hget(key, "document"))
        return None if document is None else job_from_json(document)

    async def find(self, owner: Owner, idempotency_key: str) -> Job | None:
        field = f"{owner.tenant}\0{idempotency_key}"
        job_id = await self._redis.call(lambda redis: redis.hget(self._redis.key("keys"), field))
        return None if job_id is None else await self.get(job_id.decode())

    async def page(
        self,
        owner: Owner,
        *,
        statuses: frozenset[JobStatus] | None = None,
        before: tuple[float, str] | None = None,
        limit: int = 20,
    ) -> tuple[Job, ...]:
        if not owner.tenant:
            return ()
        wanted = JobStatus if statuses is None else statuses
        keys = [self._redis.key("jobs", status, owner.tenant) for status in wanted]
        return await self._jobs(await self._redis.newest(keys, before, limit))

    async def events(self, job_id: str, *, after: int, limit: int = 500) -> tuple[JobEvent, ...]:
        key = self._redis.key("events", job_id)
        found = await self._redis.call(lambda redis: redis.lrange(key, after, after + limit - 1))
        return tuple(
            records.event(job_id, number, data) for number, data in enumerate(found, after + 1)
        )

    async def changed(self, job_id: str, *, after: int, timeout_s: float) -> bool:
        return await self._changes.wait(job_id, after=after, timeout_s=timeout_s)

    async def ask(self, job_id: str, action: JobAction, at: float) -> Job | None:
        while (found := await self._look_up(job_id)) is not None:
            job, revision, *_ = found
            asked = transitions.asked(job, action, at=at, ttl_s=self._ttl_s)
            if asked.job == job or await self._save(asked, {"revision": revision}):
                return asked.job
        return None

    async def claim(self, holder: str, *, lease_s: float, at: float, free: int) -> Lease | None:
        token = secrets.token_hex(16)
        lease = {
            "holder": holder,
            "token": token,
            "lease_s": records.number(lease_s),
            "passed_over": "0",
        }
        while (chosen := await self._next(free)) is not None:
            job_id, expected, passed_over = chosen
            found = await self._look_up(job_id)
            if found is None:
                continue
            job, revision, *_ = found
            claimed = transitions.claimed(job, at=at)
            expected |= {"revision": revision}
            if await self._save(claimed, expected, lease=lease, passed_over=passed_over):
                key = self._redis.key("parts", job_id)
                parts = await self._redis.call(lambda redis, key=key: redis.hgetall(key))
                held_parts = {int(image): data for image, data in parts.items()}
                return Lease(job=claimed.job, token=token, parts=held_parts)
        return None

    async def renew(self, job_id: str, token: str, *, lease_s: float) -> JobAction | None:
        asked = await self._redis.run("lease", job_id, token, records.number(lease_s))
        if asked is None:
            raise LeaseLost(job_id)
        return JobAction(asked.decode()) if asked else None

    async def update(self, job_id: str, token: str, update: Update) -> Job:
        while (found := await self._look_up(job_id)) is not None:
            job, revision, held_under, last_update = found
            if last_update == update.id:
                return job
            if held_under != token or job.status is not JobStatus.RUNNING:
                break
            updated = transitions.updated(job, update, ttl_s=self._ttl_s)
            expected = {"revision": revision, "token": token}
            if await self._save(updated, expected, update=update.id, parts=update.parts):
                return updated.job
        raise LeaseLost(job_id)

    async def release(self, job_id: str, token: str) -> None:
        await self._redis.run("lease", job_id, token)

    async def delete(self, job_id: str) -> Job | None:
        document = await self._redis.run("delete", job_id)
        if document == b"":
            raise ValueError(f"job {job_id} is not over: only one that is over can be deleted")
        self._changes.tell(job_id, None)
        return None if document is None else job_from_json(document)

    async def expired(self, *, at: float, limit: int = 100) -> tuple[Job, ...]:
        key = self._redis.key("expiring")
        found = await self._redis.call(
            lambda redis: redis.zrangebyscore(key, "-inf", at, start=0, num=limit)
        )
        return await self._jobs(job_id.decode() for job_id in found)

    async def over_bytes(self, max_bytes: int, *, limit: int = 100) -> tuple[Job, ...]:
        key = self._redis.key("bytes")
        tenants = await self._redis.call(
            lambda redis: redis.zrevrangebyscore(key, "+inf", f"({max_bytes}", withscores=True)
        )
        chosen: list[Job] = []
        for tenant, num_bytes in tenants:
            files = self._redis.key("files", tenant.decode())
            oldest = await self._redis.call(
                lambda redis, files=files: redis.zrange(files, 0, limit - len(chosen) - 1)
            )
            for job in await self._jobs(job_id.decode() for job_id in oldest):
                if num_bytes <= max_bytes or len(chosen) == limit:
                    break
                chosen.append(job)
                num_bytes -= job.num_bytes
            if len(chosen) == limit:
                break
        return tuple(chosen)

    async def waiting(self, *, tenant: str | None = None) -> Waiting:
        key = self._redis.key("total") if tenant is None else self._redis.key("tenant", tenant)
        jobs, work = await self._redis.call(lambda redis: redis.hmget(key, "jobs", "work_us"))
        return Waiting(jobs=int(jobs or 0), work_s=int(work or 0) / MICROSECONDS)

    async def waiting_before(
        self, job_ids: Collection[str], *, tenant: str | None = None
    ) -> Mapping[str, Waiting]:
        jobs, queues = await self._redis.run("waiting", *job_ids)
        lanes = [lane for queue in queues for lane in records.lanes(*queue)]
        return all_ahead(lanes, (records.queued(*job) for job in jobs), tenant)

    async def active(self) -> Mapping[tuple[str, JobStatus], int]:
        queued, running = await self._redis.run("active")
        counts = Counter[tuple[str, JobStatus]]()
        for lane in queued:
            for tenant, jobs in zip(lane[::2], lane[1::2], strict=True):
                counts[tenant.decode(), JobStatus.QUEUED] += int(jobs)
        counts.update((tenant.decode(), JobStatus.RUNNING) for tenant in running)
        return counts

    async def _save(
        self,
        now: transitions.Transition,
        expected: Mapping[str, str],
        *,
        lease: Mapping[str, str] | None = None,
        passed_over: str | None = None,
        update: str | None = None,
        parts: Mapping[int, bytes] | None = None,
    ) -> bool:
        """False, with nothing written, if the job is not as expected any more."""
        arguments = records.save_arguments(
            now,
            expected=expected,
            lease=lease,
            passed_over=passed_over,
            update=update,
            parts=parts,
        )
        (answer,) = await self._redis.run("save", *arguments)
        if answer == b"saved":
            self._changes.tell(now.job.id, now.job.last_event)
        return answer == b"saved"

    async def _look_up(self, job_id: str) -> tuple[Job, str, str, str] | None:
        """A job, its revision, the token of its holder, and the id of its last update."""
        key = self._redis.key("job", job_id)
        document, revision, token, update = await self._redis.call(
            lambda redis: redis.hmget(key, "document", "revision", "token", "last_update")
        )
        if document is None:
            return None
        return job_from_json(document), revision.decode(), token.decode(), (update or b"").decode()

    async def _next(self, free: int) -> tuple[str, dict[str, str], str | None] | None:
        """The job to claim, how it must still be, and the one that is passed over by that."""
        try:
            running, first_queued, fitting_queued = await self._redis.run("next", str(free))
        except StoreUnavailable:
            self._watch.forget()
            raise
        held = {job.id: job for job in map(records.held_job, running)}
        abandoned = self._watch.abandoned(held.values())
        first = first_of(next(iter(abandoned), None), records.candidate(first_queued))
        fitting = first_of(
            next((job for job in abandoned if job.images <= free), None),
            records.candidate(fitting_queued),
        )
        job, passed = choose(first, first if first and first.images <= free else fitting)
        if job is None:
            return None
        expected = {"status": "queued"}
        if (lease := held.get(job.id)) is not None:
            expected = {
                "status": "running",
                "token": lease.token or "",
                "renewals": str(lease.renewals),
            }
        return job.id, expected, None if passed is None else passed.id

    async def _jobs(self, job_ids: Iterable[str]) -> tuple[Job, ...]:
        """Those that are there."""
        documents = await self._of_each(job_ids, "document")
        return tuple(job_from_json(document) for document in documents if document is not None)

    async def _newest_events(self, job_ids: Sequence[str]) -> Mapping[str, int]:
        numbers = await self._of_each(job_ids, "last_event")
        found = zip(job_ids, numbers, strict=True)
        return {job_id: int(number) for job_id, number in found if number is not None}

    async def _of_each(self, job_ids: Iterable[str], field: str) -> list[bytes | None]:
        keys = [self._redis.key("job", job_id) for job_id in job_ids]
        return await self._redis.all(lambda pipe: [pipe.hget(key, field) for key in keys])
