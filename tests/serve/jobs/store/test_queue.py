"""Who is next, and what waits before whom."""

from __future__ import annotations

import asyncio

from serve.jobs.job import ImageProgress, Job, JobAction, JobStatus
from serve.jobs.store.job_store import Update, Waiting
from serve.jobs.store.lanes import MAX_PASSED_OVER
from serve.jobs.store.open_store import Store
from tests.serve.jobs.store.conftest import OpenStore
from tests.serve.jobs.store.samples import LEASE_S, UNBOUNDED, Clock, a_job


async def submit(store: Store, *jobs: Job) -> None:
    for job in jobs:
        await store.submit(job, UNBOUNDED)


async def claimed(store: Store, *, free: int = 8) -> list[str]:
    """The ids of all jobs, in the order in which they are claimed."""
    ids: list[str] = []
    while lease := await store.claim("runner", lease_s=LEASE_S, at=9.0, free=free):
        ids.append(lease.job.id)
    return ids


async def test_priority_then_age(store: Store) -> None:
    await submit(
        store,
        a_job("job_b", created_at=2.0),
        a_job("job_c", created_at=1.0),
        a_job("job_a", created_at=2.0),
        a_job("job_low", created_at=0.5, priority=-5),
        a_job("job_high", created_at=9.0, priority=20),
        a_job("job_higher", created_at=9.0, priority=100, tenant="other"),
    )
    order = ["job_higher", "job_high", "job_c", "job_a", "job_b", "job_low"]
    assert await claimed(store) == order


async def test_a_tenant_with_much_does_not_hold_up_one_with_little(store: Store) -> None:
    await submit(
        store,
        *(a_job(f"job_{n}", tenant="large", created_at=float(n)) for n in range(4)),
        a_job("job_s", tenant="small", created_at=50.0),
        a_job("job_t", tenant="small", created_at=51.0),
    )
    assert await claimed(store) == ["job_0", "job_s", "job_1", "job_t", "job_2", "job_3"]


async def test_who_has_the_fewest_running_is_next(store: Store) -> None:
    await submit(store, a_job("job_1", tenant="a"), a_job("job_2", tenant="a"))
    assert await claimed(store) == ["job_1", "job_2"]
    await submit(store, a_job("job_3", tenant="a"), a_job("job_4", tenant="b", created_at=9.0))
    await submit(store, a_job("job_5", tenant="b", created_at=10.0))
    assert await claimed(store) == ["job_4", "job_5", "job_3"]


async def test_of_equals_who_was_served_longest_ago_is_next(store: Store) -> None:
    for job_id, tenant in (("job_a", "a"), ("job_b", "b")):
        await submit(store, a_job(job_id, tenant=tenant))
        lease = await store.claim("runner", lease_s=LEASE_S, at=2.0, free=1)
        assert lease is not None
        done = Update(at=3.0, changes={"status": JobStatus.SUCCEEDED})
        await store.update(job_id, lease.token, done)
    await submit(store, a_job("job_1", tenant="b", created_at=1.0))
    await submit(store, a_job("job_2", tenant="a", created_at=2.0))
    await submit(store, a_job("job_3", tenant="new", created_at=3.0))
    assert await claimed(store) == ["job_3", "job_2", "job_1"]


async def test_what_is_larger_than_the_free_places_waits(store: Store) -> None:
    of_three = tuple(ImageProgress(image=n, phase="queued", step=0, total=4) for n in range(3))
    await submit(
        store,
        a_job("job_1", request={"n": 4}),
        a_job("job_2", images=of_three, created_at=2.0),
        a_job("job_3", created_at=3.0),
    )
    assert await claimed(store, free=0) == []
    assert await claimed(store, free=2) == ["job_3"]
    assert await claimed(store, free=3) == ["job_2"]
    assert await claimed(store, free=4) == ["job_1"]


async def test_what_is_too_large_is_passed_over_only_so_often(
    store: Store, open_store: OpenStore
) -> None:
    """Each claim by another replica, as each has its own free places."""
    replicas = [store, await open_store()]
    await submit(
        store,
        a_job("job_large", request={"n": 4}),
        *(a_job(f"job_{n:02}", created_at=2.0 + n) for n in range(MAX_PASSED_OVER + 2)),
    )
    for n in range(MAX_PASSED_OVER):
        lease = await replicas[n % 2].claim("runner", lease_s=LEASE_S, at=9.0, free=3)
        assert lease is not None
        assert lease.job.id == f"job_{n:02}"
    # Now it is its turn, whoever has places enough first.
    assert [await claimed(each, free=3) for each in replicas] == [[], []]
    await submit(store, a_job("job_urgent", priority=1, created_at=99.0))
    assert await claimed(store, free=3) == ["job_urgent"]
    lease = await replicas[1].claim("runner", lease_s=LEASE_S, at=9.0, free=4)
    assert lease is not None
    assert lease.job.id == "job_large"
    assert len(await claimed(store, free=3)) == 2


async def test_a_large_job_that_was_left_behind_is_passed_over_only_so_often(store: Store) -> None:
    await submit(store, a_job("job_large", request={"n": 4}))
    lease = await store.claim("runner", lease_s=LEASE_S, at=9.0, free=4)
    assert lease is not None
    await store.release("job_large", lease.token)
    await submit(store, *(a_job(f"job_{n:02}") for n in range(MAX_PASSED_OVER + 1)))
    assert len(await claimed(store, free=3)) == MAX_PASSED_OVER
    assert await claimed(store, free=4) == ["job_large", f"job_{MAX_PASSED_OVER:02}"]


async def test_one_that_nothing_goes_before_is_not_passed_over(store: Store) -> None:
    await submit(store, a_job("job_large", request={"n": 4}))
    for _ in range(MAX_PASSED_OVER + 1):
        assert await claimed(store, free=3) == []
    await submit(store, a_job("job_1", created_at=2.0))
    assert await claimed(store, free=3) == ["job_1"]


async def test_an_abandoned_job_goes_before_queued_ones_of_its_priority(
    store: Store, clock: Clock
) -> None:
    await submit(store, a_job("job_1"))
    assert await claimed(store) == ["job_1"]
    await submit(store, a_job("job_2", priority=1), a_job("job_3", created_at=0.5))
    assert await store.claim("runner", lease_s=LEASE_S, at=9.0, free=0) is None
    clock.now += LEASE_S
    assert await claimed(store) == ["job_2", "job_1", "job_3"]


async def test_what_waits_in_all_and_of_a_tenant(store: Store) -> None:
    assert await store.waiting() == Waiting(jobs=0, work_s=0.0)
    await submit(
        store,
        a_job("job_1", work_s=0.1),
        a_job("job_2", work_s=0.2, priority=3),
        a_job("job_3", tenant="b", work_s=0.3),
    )
    assert await store.waiting() == Waiting(jobs=3, work_s=0.6)
    assert await store.waiting(tenant="b") == Waiting(jobs=1, work_s=0.3)
    assert await store.waiting(tenant="nobody") == Waiting(jobs=0, work_s=0.0)
    await store.ask("job_1", JobAction.CANCEL, 2.0)
    assert await store.waiting() == Waiting(jobs=2, work_s=0.5)
    assert len(await claimed(store)) == 2
    assert await store.waiting() == Waiting(jobs=0, work_s=0.0)


async def test_before_a_job_wait_those_that_will_be_claimed_first(store: Store) -> None:
    jobs = [
        *(a_job(f"job_a{n}", tenant="a", created_at=float(n), work_s=1.0) for n in range(5)),
        *(a_job(f"job_b{n}", tenant="b", created_at=float(n), work_s=2.0) for n in range(2)),
        a_job("job_h", tenant="c", created_at=9.0, priority=1, work_s=4.0),
        a_job("job_l", tenant="c", created_at=0.0, priority=-1, work_s=8.0),
    ]
    await submit(store, *jobs)
    before = await store.waiting_before([job.id for job in jobs])
    for job in jobs:
        assert await store.waiting_before([job.id]) == {job.id: before[job.id]}
    assert before["job_a4"] == Waiting(jobs=7, work_s=4.0 + 4.0 + 4.0)
    assert before["job_h"] == Waiting(jobs=0, work_s=0.0)
    assert before["job_l"] == Waiting(jobs=8, work_s=5.0 + 4.0 + 4.0)
    order = await claimed(store)
    assert [before[job_id].jobs for job_id in order] == list(range(9))
    assert await store.waiting_before(["job_a4", "nothing"]) == {}
    assert await store.waiting_before([]) == {}


async def test_before_a_job_of_one_tenant_alone(store: Store) -> None:
    await submit(
        store,
        a_job("job_1", tenant="a", work_s=1.0),
        a_job("job_2", tenant="a", created_at=2.0),
        a_job("job_3", tenant="b", work_s=4.0),
    )
    for tenant, work_s in (("a", 1.0), ("b", 4.0)):
        before = await store.waiting_before(["job_2"], tenant=tenant)
        assert before == {"job_2": Waiting(jobs=1, work_s=work_s)}


async def test_ten_thousand_wait(store: Store) -> None:
    jobs = [
        a_job(f"job_{n:05}", tenant=f"tenant_{n % 2}", created_at=float(n)) for n in range(10_000)
    ]
    for start in range(0, len(jobs), 500):
        await asyncio.gather(*(store.submit(job, UNBOUNDED) for job in jobs[start : start + 500]))
    assert await store.waiting() == Waiting(jobs=10_000, work_s=20_000.0)
    assert await store.waiting_before(["job_09999", "job_03001"]) == {
        "job_09999": Waiting(jobs=9_999, work_s=19_998.0),
        "job_03001": Waiting(jobs=3_001, work_s=6_002.0),
    }
    leases = [await store.claim("r", lease_s=LEASE_S, at=9.0, free=1) for _ in range(100)]
    assert [lease and lease.job.id for lease in leases] == [job.id for job in jobs[:100]]


async def test_what_is_not_over_by_tenant_and_status(store: Store) -> None:
    assert await store.active() == {}
    await submit(
        store,
        a_job("job_1", tenant="a"),
        a_job("job_2", tenant="a", priority=5),
        a_job("job_3", tenant="a"),
        a_job("job_4", tenant="b"),
    )
    lease = await store.claim("runner", lease_s=LEASE_S, at=9.0, free=8)
    assert lease is not None
    assert await store.active() == {
        ("a", JobStatus.QUEUED): 2,
        ("a", JobStatus.RUNNING): 1,
        ("b", JobStatus.QUEUED): 1,
    }
    over = Update(at=10.0, changes={"status": JobStatus.FAILED}, events=[("job.failed", {})])
    await store.update(lease.job.id, lease.token, over)
    await store.ask("job_4", JobAction.CANCEL, 11.0)
    assert await store.active() == {("a", JobStatus.QUEUED): 2}
