"""A job has one runner at a time, whatever happens to it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from serve.jobs.job import JobAction, JobStatus
from serve.jobs.store.job_store import Lease, LeaseLost, Update
from serve.jobs.store.lanes import Candidate
from serve.jobs.store.lease_watch import HeldJob, LeaseWatch
from serve.jobs.store.open_store import Store
from tests.serve.jobs.store.conftest import OpenStore
from tests.serve.jobs.store.samples import LEASE_S, UNBOUNDED, Clock, a_job

SUCCEEDED = Update(at=9.0, changes={"status": JobStatus.SUCCEEDED})


async def claim(store: Store, *, at: float = 2.0, free: int = 8) -> Lease | None:
    return await store.claim("runner", lease_s=LEASE_S, at=at, free=free)


async def claimed(store: Store, *, at: float = 2.0) -> Lease:
    lease = await claim(store, at=at)
    assert lease is not None
    return lease


async def taken_over(store: Store, clock: Clock) -> Lease:
    """The running job, held again after its lease has run out."""
    assert await claim(store) is None
    clock.now += LEASE_S
    return await claimed(store, at=30.0)


async def test_a_claimed_job_runs(store: Store) -> None:
    await store.submit(a_job("job_1"), UNBOUNDED)
    lease = await claimed(store)
    assert (lease.job.status, lease.job.started_at, lease.job.attempts) == ("running", 2.0, 1)
    assert lease.parts == {}
    assert await store.get("job_1") == lease.job
    (_, event) = await store.events("job_1", after=0)
    assert (event.type, event.at, event.data) == ("job.running", 2.0, {"attempt": 1})


async def test_of_many_claimers_at_once_each_gets_another_job(
    store: Store, open_store: OpenStore
) -> None:
    stores = [store, await open_store(), await open_store()]
    for number in range(10):
        await store.submit(a_job(f"job_{number}", created_at=float(number)), UNBOUNDED)
    leases = await asyncio.gather(*(claim(stores[number % 3]) for number in range(15)))
    assert sorted(lease.job.id for lease in leases if lease) == [f"job_{n}" for n in range(10)]
    assert leases.count(None) == 5


async def test_a_lease_that_nobody_renews_runs_out(
    store: Store, open_store: OpenStore, clock: Clock
) -> None:
    await store.submit(a_job("job_1"), UNBOUNDED)
    first = await claimed(store)
    other = await open_store()
    assert await claim(other) is None
    clock.now += LEASE_S - 1
    assert await claim(other) is None
    clock.now += 1
    second = await claimed(other, at=30.0)
    assert second.token != first.token
    assert (second.job.attempts, second.job.started_at, second.job.last_event) == (2, 2.0, 3)
    with pytest.raises(LeaseLost):
        await store.renew("job_1", first.token, lease_s=LEASE_S)
    with pytest.raises(LeaseLost):
        await store.update("job_1", first.token, SUCCEEDED)
    await store.release("job_1", first.token)
    assert await store.get("job_1") == second.job
    assert (await other.update("job_1", second.token, SUCCEEDED)).status == "succeeded"


async def test_a_lease_that_is_renewed_does_not_run_out(store: Store, clock: Clock) -> None:
    await store.submit(a_job("job_1"), UNBOUNDED)
    lease = await claimed(store)
    for _ in range(3):
        assert await claim(store) is None
        clock.now += LEASE_S - 1
        await store.renew("job_1", lease.token, lease_s=LEASE_S)
    assert await claim(store) is None


async def test_who_has_just_started_waits_a_whole_lease(
    store: Store, open_store: OpenStore, clock: Clock
) -> None:
    """However far its clock has gone, which may be another machine's."""
    await store.submit(a_job("job_1"), UNBOUNDED)
    await claimed(store)
    late = Clock()
    late.now = 1e6
    other = await open_store(late)
    assert await claim(other) is None
    late.now += LEASE_S
    assert await claim(other) is not None


async def test_a_job_that_is_given_back_is_claimed_at_once(
    store: Store, open_store: OpenStore
) -> None:
    await store.submit(a_job("job_1"), UNBOUNDED)
    lease = await claimed(store)
    await store.release("job_1", lease.token)
    with pytest.raises(LeaseLost):
        await store.renew("job_1", lease.token, lease_s=LEASE_S)
    again = await claimed(await open_store())
    assert (again.job.id, again.job.attempts) == ("job_1", 2)


async def test_the_next_runner_finds_what_earlier_ones_have_kept(
    store: Store, clock: Clock
) -> None:
    await store.submit(a_job("job_1"), UNBOUNDED)
    first = await claimed(store)
    large = bytes(range(256)) * 4000
    await store.update("job_1", first.token, Update(at=3.0, changes={}, parts={0: b"a", 1: b"b"}))
    await store.update("job_1", first.token, Update(at=4.0, changes={}, parts={1: large}))
    second = await taken_over(store, clock)
    assert second.parts == {0: b"a", 1: large}


async def test_the_end_of_a_job_ends_its_hold(store: Store, clock: Clock) -> None:
    await store.submit(a_job("job_1"), UNBOUNDED)
    lease = await claimed(store)
    await store.update("job_1", lease.token, Update(at=3.0, changes={}, parts={0: b"a"}))
    over = await store.update("job_1", lease.token, SUCCEEDED)
    with pytest.raises(LeaseLost):
        await store.renew("job_1", lease.token, lease_s=LEASE_S)
    with pytest.raises(LeaseLost):
        await store.update("job_1", lease.token, Update(at=9.0, changes={}))
    await store.release("job_1", lease.token)
    clock.now += LEASE_S
    assert await claim(store) is None
    assert await store.get("job_1") == over


async def test_a_cancel_outlives_the_runner_that_should_have_heard_it(
    store: Store, clock: Clock
) -> None:
    await store.submit(a_job("job_1"), UNBOUNDED)
    await claimed(store)
    await store.ask("job_1", JobAction.CANCEL, 3.0)
    assert (await taken_over(store, clock)).job.pending_action is JobAction.CANCEL


async def test_a_cancel_and_a_claim_at_once_leave_one_of_two_ends(
    store: Store, open_store: OpenStore
) -> None:
    other = await open_store()
    for number in range(20):
        job_id = f"job_{number}"
        await store.submit(a_job(job_id), UNBOUNDED)
        asked, lease = await asyncio.gather(
            store.ask(job_id, JobAction.CANCEL, 3.0), claim(other, at=3.0)
        )
        assert asked is not None
        if lease is None:
            assert asked.status == "cancelled"
        else:
            assert await store.renew(job_id, lease.token, lease_s=LEASE_S) is JobAction.CANCEL
            await store.update(job_id, lease.token, SUCCEEDED)


async def test_an_update_that_comes_again_changes_nothing(store: Store) -> None:
    await store.submit(a_job("job_1"), UNBOUNDED)
    lease = await claimed(store)
    step = Update(at=3.0, changes={"work_s": 5.0}, events=[("job.progress", {"step": 1})])
    first = await store.update("job_1", lease.token, step)
    asked = await store.ask("job_1", JobAction.KEEP, 4.0)  # whatever has been written between
    assert await store.update("job_1", lease.token, step) == asked
    # The same in another update is another step.
    other = await store.update("job_1", lease.token, replace(step, id="another"))
    assert other.last_event == first.last_event + 1
    over = await store.update("job_1", lease.token, SUCCEEDED)
    assert await store.update("job_1", lease.token, SUCCEEDED) == over
    numbers = [event.number for event in await store.events("job_1", after=0)]
    assert numbers == list(range(1, over.last_event + 1))


def test_a_watch_counts_from_when_it_first_saw_a_renewal() -> None:
    clock = Clock()
    watch = LeaseWatch(clock)
    job = HeldJob("job_1", "token", 4, 10.0)
    renewed = job._replace(renewals=5)
    assert watch.abandoned([job]) == []
    clock.now = 9.0
    assert watch.abandoned([renewed]) == []
    clock.now = 18.0
    assert watch.abandoned([renewed]) == []
    clock.now = 19.0
    assert watch.abandoned([renewed]) == [Candidate("job_1", 0, 1, 0)]
    assert watch.abandoned([]) == []
    assert watch.abandoned([renewed]) == []


def test_a_watch_that_could_not_look_counts_anew() -> None:
    clock = Clock()
    watch = LeaseWatch(clock)
    job = HeldJob("job_1", "token", 4, 10.0)
    assert watch.abandoned([job]) == []
    clock.now = 9.0
    watch.forget()
    clock.now = 30.0
    assert watch.abandoned([job]) == []
    clock.now = 40.0
    assert watch.abandoned([job]) == [Candidate("job_1", 0, 1, 0)]
