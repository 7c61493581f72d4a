"""A store as a few lists and sets, and sequences of operations on it and on a real one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace

import pytest
from hypothesis import strategies as st

from pipelines.errors import IdempotencyKeyReused
from serve.jobs.job import Job, JobAction, JobStatus, Owner
from serve.jobs.store.job_store import LeaseLost, Update, Waiting
from serve.jobs.store.lanes import MAX_PASSED_OVER
from serve.jobs.store.open_store import Store
from tests.serve.jobs.store.samples import LEASE_S, TTL_S, UNBOUNDED, Clock, a_job, an_output

TENANTS = ("a", "b", "c")
FINAL = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


@dataclass(frozen=True)
class Submit:
    tenant: str
    priority: int
    images: int
    key: str | None
    body: str


@dataclass(frozen=True)
class Claim:
    free: int


@dataclass(frozen=True)
class ToJob:
    """An operation on one of the jobs there have been, by its number."""

    what: str
    job: int
    status: JobStatus


Operation = Submit | Claim | ToJob | str

operations = st.one_of(
    st.builds(
        Submit,
        st.sampled_from(TENANTS),
        st.integers(-1, 1),
        st.integers(1, 3),
        st.sampled_from([None, None, "k", "l"]),
        st.sampled_from("xy"),
    ),
    st.builds(Claim, st.integers(0, 3)),
    st.builds(
        ToJob,
        st.sampled_from(["cancel", "keep", "renew", "go on", "finish", "release", "delete"]),
        st.integers(1, 12),
        st.sampled_from(FINAL),
    ),
    st.just("a lease's time passes"),
)


sequences = st.lists(operations, min_size=10, max_size=60)


class Model:
    """What a store does with one job after another, in plain lists and sets."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.held: dict[str, str | None] = {}
        """Running jobs with their tokens, None for those that were given back."""
        self.seen: set[str] = set()
        self.run_out: set[str] = set()
        self.turns: dict[str, tuple[bool, int]] = {}
        """By tenant: whether it was served, and when it was, or when it came."""
        self.passed_over = Counter[str]()
        self.now = 0

    def submit(self, job: Job) -> None:
        self.now += 1
        self.jobs[job.id] = job
        self.turns.setdefault(job.tenant, (False, self.now))

    def under(self, tenant: str, key: str | None) -> Job | None:
        found = (
            job for job in self.jobs.values() if (job.tenant, job.idempotency_key) == (tenant, key)
        )
        return None if key is None else next(found, None)

    def next(self, free: int) -> Job | None:
        found = [job for job in self.jobs.values() if self.is_free(job)]
        self.seen |= {job_id for job_id, token in self.held.items() if token is not None}
        first = min(found, key=self.place, default=None)
        fitting = [job for job in found if job.num_images <= free]
        if first is None or first in fitting:
            return first
        if not fitting or self.passed_over[first.id] >= MAX_PASSED_OVER:
            return None
        self.passed_over[first.id] += 1
        return min(fitting, key=self.place)

    def is_free(self, job: Job) -> bool:
        if job.status is JobStatus.RUNNING:
            return self.held[job.id] is None or job.id in self.run_out
        return job.status is JobStatus.QUEUED

    def place(self, job: Job) -> tuple[object, ...]:
        """Jobs are claimed in this order."""
        if job.status is JobStatus.RUNNING:
            return -job.priority, 0, job.created_at
        return -job.priority, 1, self.running(job.tenant), self.turns[job.tenant], job.created_at

    def running(self, tenant: str) -> int:
        return sum(self.jobs[job_id].tenant == tenant for job_id in self.held)

    def claim(self, job: Job, token: str) -> None:
        self.now += 1
        self.jobs[job.id] = job
        self.turns[job.tenant] = (True, self.now)
        del self.passed_over[job.id]
        self.hold(job.id, token)

    def hold(self, job_id: str, token: str | None) -> None:
        self.held[job_id] = token
        self.seen.discard(job_id)
        self.run_out.discard(job_id)

    def end(self, job: Job) -> None:
        self.jobs[job.id] = job
        self.held.pop(job.id, None)

    def delete(self, job: Job) -> None:
        del self.jobs[job.id]
        if not any(each.tenant == job.tenant for each in self.jobs.values()):
            del self.turns[job.tenant]


class Run:
    """One sequence of operations, on the store and on the model."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self.model = Model()
        self.number = 0

    async def do(self, operation: Operation) -> None:
        match operation:
            case Submit():
                await self.submit(operation)
            case Claim():
                await self.claim(operation.free)
            case ToJob():
                await self.to_job(operation)
            case _:
                self.clock.now += LEASE_S
                self.model.run_out |= self.model.seen

    async def submit(self, wanted: Submit) -> None:
        self.number += 1
        job = a_job(
            f"job_{self.number}",
            tenant=wanted.tenant,
            priority=wanted.priority,
            request={"n": wanted.images},
            idempotency_key=wanted.key,
            body_sha256=wanted.body,
            created_at=float(self.number),
        )
        earlier = self.model.under(wanted.tenant, wanted.key)
        if earlier is None:
            assert (await self.store.submit(job, UNBOUNDED)).job == replace(job, last_event=1)
            self.model.submit(replace(job, last_event=1))
        elif earlier.body_sha256 == wanted.body:
            assert (await self.store.submit(job, UNBOUNDED)).job == earlier
        else:
            with pytest.raises(IdempotencyKeyReused):
                await self.store.submit(job, UNBOUNDED)

    async def claim(self, free: int) -> None:
        job = self.model.next(free)
        lease = await self.store.claim("runner", lease_s=LEASE_S, at=2.0, free=free)
        if job is None or lease is None:
            assert lease is job is None
            return
        assert lease.job == replace(
            job,
            status=JobStatus.RUNNING,
            started_at=2.0,
            attempts=job.attempts + 1,
            last_event=job.last_event + 1,
        )
        self.model.claim(lease.job, lease.token)

    async def to_job(self, wanted: ToJob) -> None:
        job = self.model.jobs.get(f"job_{wanted.job}")
        if job is None:
            assert await self.store.get(f"job_{wanted.job}") is None
        elif wanted.what in ("cancel", "keep"):
            await self.ask(job, JobAction(wanted.what))
        elif wanted.what == "delete":
            await self.delete(job)
        else:
            await self.held(job, self.model.held.get(job.id), wanted)

    async def ask(self, job: Job, action: JobAction) -> None:
        now = await self.store.ask(job.id, action, 2.0)
        if job.status is JobStatus.QUEUED and action is JobAction.CANCEL:
            self.model.end(over(job, JobStatus.CANCELLED))
        elif not job.status.is_final and job.pending_action is not JobAction.CANCEL:
            self.model.jobs[job.id] = replace(job, pending_action=action)
        assert now == self.model.jobs[job.id]

    async def delete(self, job: Job) -> None:
        if not job.status.is_final:
            with pytest.raises(ValueError, match=job.id):
                await self.store.delete(job.id)
            return
        assert await self.store.delete(job.id) == job
        self.model.delete(job)

    async def held(self, job: Job, token: str | None, wanted: ToJob) -> None:
        """What a job's runner does; of a job that is held by nobody nothing comes."""
        if wanted.what == "release":
            await self.store.release(job.id, token or "")
            if token is not None:
                self.model.hold(job.id, None)
        elif token is None:
            with pytest.raises(LeaseLost):
                await self.store.renew(job.id, "token", lease_s=LEASE_S)
        elif wanted.what == "renew":
            heard = await self.store.renew(job.id, token, lease_s=LEASE_S)
            assert heard is job.pending_action
            self.model.hold(job.id, token)
        elif wanted.what == "go on":
            step = Update(at=2.0, changes={}, events=[("job.progress", {})])
            self.model.jobs[job.id] = replace(job, last_event=job.last_event + 1)
            assert await self.store.update(job.id, token, step) == self.model.jobs[job.id]
        else:
            outputs = (an_output(10 * wanted.job),)
            done = Update(at=2.0, changes={"status": wanted.status, "outputs": outputs})
            self.model.end(replace(over(job, wanted.status), outputs=outputs))
            assert await self.store.update(job.id, token, done) == self.model.jobs[job.id]

    async def compare(self) -> None:
        """All that can be asked of the store, with what the model says."""
        jobs = self.model.jobs.values()
        for tenant in TENANTS:
            own = sorted(
                (job for job in jobs if job.tenant == tenant), key=lambda job: -job.created_at
            )
            assert list(await self.store.page(Owner(tenant=tenant), limit=1000)) == own
            queued = [job for job in own if job.status is JobStatus.QUEUED]
            assert await self.store.waiting(tenant=tenant) == sum_of(queued)
        assert await self.store.waiting() == sum_of(
            [job for job in jobs if job.status is JobStatus.QUEUED]
        )
        finished = [job for job in jobs if job.status.is_final]
        expired = await self.store.expired(at=1e9, limit=1000)
        assert {job.id for job in expired} == {job.id for job in finished}
        with_files = await self.store.over_bytes(0, limit=1000)
        assert {job.id for job in with_files} == {job.id for job in finished if job.num_bytes}
        for job in jobs:
            events = await self.store.events(job.id, after=0)
            assert [event.number for event in events] == list(range(1, job.last_event + 1))


def over(job: Job, status: JobStatus) -> Job:
    return replace(
        job,
        status=status,
        pending_action=None,
        finished_at=2.0,
        expires_at=2.0 + TTL_S,
        last_event=job.last_event + 1,
    )


def sum_of(jobs: list[Job]) -> Waiting:
    return Waiting(jobs=len(jobs), work_s=2.0 * len(jobs))


def follow(
    open_store: Callable[[Clock], AbstractAsyncContextManager[Store]], sequence: Sequence[Operation]
) -> None:
    """Do it all on an empty store and on a model, and see that they say the same."""

    async def run() -> None:
        clock = Clock()
        async with open_store(clock) as store:
            run = Run(store, clock)
            for operation in sequence:
                await run.do(operation)
            await run.compare()

    asyncio.run(run())
