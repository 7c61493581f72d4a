"""What is forgotten: by age, and by the bytes of each tenant's files."""

from __future__ import annotations

from serve.jobs.job import JobAction, JobStatus
from serve.jobs.store.job_store import Update
from serve.jobs.store.open_store import Store
from tests.serve.jobs.store.samples import LEASE_S, TTL_S, UNBOUNDED, a_job, an_output


async def finish(store: Store, job_id: str, tenant: str, *, at: float, num_bytes: int) -> None:
    await store.submit(a_job(job_id, tenant=tenant), UNBOUNDED)
    lease = await store.claim("runner", lease_s=LEASE_S, at=at, free=1)
    assert lease is not None
    outputs = (an_output(num_bytes),) if num_bytes else ()
    changes = {"status": JobStatus.SUCCEEDED, "outputs": outputs}
    await store.update(job_id, lease.token, Update(at=at, changes=changes))


async def over(store: Store, max_bytes: int, limit: int = 100) -> list[str]:
    return sorted(job.id for job in await store.over_bytes(max_bytes, limit=limit))


async def test_jobs_expire_after_their_time(store: Store) -> None:
    for number in range(3):
        await store.submit(a_job(f"job_{number}"), UNBOUNDED)
        await store.ask(f"job_{number}", JobAction.CANCEL, 10.0 + number)
    await store.submit(a_job("job_queued"), UNBOUNDED)
    assert await store.expired(at=10.0 + TTL_S - 0.5) == ()
    expired = await store.expired(at=11.0 + TTL_S)
    assert [job.id for job in expired] == ["job_0", "job_1"]
    assert [job.id for job in await store.expired(at=1e9, limit=1)] == ["job_0"]
    for job in expired:
        await store.delete(job.id)
    assert [job.id for job in await store.expired(at=1e9)] == ["job_2"]


async def test_the_oldest_files_of_a_tenant_make_room(store: Store) -> None:
    for number, (tenant, num_bytes) in enumerate(
        [("a", 40), ("a", 0), ("a", 30), ("b", 50), ("a", 30), ("b", 5)]
    ):
        await finish(store, f"job_{number}", tenant, at=float(number), num_bytes=num_bytes)
    assert await over(store, 100) == []
    assert await over(store, 99) == ["job_0"]
    assert await over(store, 54) == ["job_0", "job_2", "job_3"]
    assert await over(store, 0) == ["job_0", "job_2", "job_3", "job_4", "job_5"]
    assert await over(store, 0, limit=2) == ["job_0", "job_2"]
    await store.delete("job_0")
    assert await over(store, 60) == []
    assert await over(store, 59) == ["job_2"]


async def test_files_of_running_jobs_do_not_count(store: Store) -> None:
    await store.submit(a_job("job_1"), UNBOUNDED)
    lease = await store.claim("runner", lease_s=LEASE_S, at=2.0, free=1)
    assert lease is not None
    drawn = Update(at=3.0, changes={"outputs": (an_output(40),)})
    await store.update("job_1", lease.token, drawn)
    assert await over(store, 0) == []
    await store.update(
        "job_1", lease.token, Update(at=4.0, changes={"status": JobStatus.CANCELLED})
    )
    assert await over(store, 39) == ["job_1"]
