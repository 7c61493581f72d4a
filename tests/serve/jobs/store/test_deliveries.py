"""Webhooks that are to be sent are kept beside the jobs, and each is somebody's at a time."""

from __future__ import annotations

import asyncio

import pytest

from serve.jobs.job import JobAction, JobStatus, Owner
from serve.jobs.store.delivery_store import Attempted, Delivery, DeliveryStatus
from serve.jobs.store.job_store import Update
from serve.jobs.store.open_store import Store
from tests.serve.jobs.store.conftest import OpenStore
from tests.serve.jobs.store.samples import ATELIER, LEASE_S, UNBOUNDED, a_job

URL = "https://hooks.test/done"


async def cancelled(store: Store, number: int = 1, tenant: str = ATELIER.tenant) -> None:
    """A job with a webhook that is over at second `10 * number`."""
    job_id = f"job_{number}"
    await store.submit(a_job(job_id, webhook=URL, tenant=tenant), UNBOUNDED)
    await store.ask(job_id, JobAction.CANCEL, 10.0 * number)


async def claimed(store: Store, *, at: float) -> Delivery:
    due = await store.claim_delivery(at=at, lease_s=5.0)
    assert due is not None
    assert due.job == await store.get(due.delivery.job_id)
    return due.delivery


async def test_a_job_with_a_webhook_that_is_over_is_told(store: Store) -> None:
    await store.submit(a_job("job_1", webhook=URL), UNBOUNDED)
    lease = await store.claim("runner", lease_s=LEASE_S, at=2.0, free=1)
    assert lease is not None
    await store.update("job_1", lease.token, Update(at=3.0, changes={}))
    assert await store.claim_delivery(at=100.0, lease_s=5.0) is None
    await store.update(
        "job_1", lease.token, Update(at=4.0, changes={"status": JobStatus.SUCCEEDED})
    )
    assert await store.claim_delivery(at=3.9, lease_s=5.0) is None
    delivery = await claimed(store, at=4.0)
    assert delivery == Delivery(
        id=delivery.id,
        job_id="job_1",
        tenant=ATELIER.tenant,
        url=URL,
        created_at=4.0,
        next_at=9.0,
    )
    assert await store.deliveries(ATELIER) == (delivery,)


async def test_a_job_without_a_webhook_is_not_told(store: Store) -> None:
    await store.submit(a_job("job_1"), UNBOUNDED)
    await store.ask("job_1", JobAction.CANCEL, 2.0)
    assert await store.claim_delivery(at=100.0, lease_s=5.0) is None


async def test_a_delivery_has_one_sender_until_its_lease_ends(
    store: Store, open_store: OpenStore
) -> None:
    other = await open_store()
    await cancelled(store)
    both = await asyncio.gather(
        *(each.claim_delivery(at=20.0, lease_s=5.0) for each in (store, other))
    )
    assert both.count(None) == 1
    assert await other.claim_delivery(at=24.9, lease_s=5.0) is None
    assert (await claimed(other, at=25.0)).next_at == 30.0


async def test_what_has_been_due_longest_is_next(store: Store) -> None:
    for number in (2, 1, 3):
        await cancelled(store, number)
    order = [(await claimed(store, at=50.0)).job_id for _ in range(3)]
    assert order == ["job_1", "job_2", "job_3"]


async def test_attempts_are_noted(store: Store) -> None:
    await cancelled(store)
    first = await claimed(store, at=10.0)
    again = Attempted(
        status=DeliveryStatus.WAITING, next_at=60.0, error="it said 500", http_status=500
    )
    await store.attempted(first, again)
    assert await store.claim_delivery(at=59.0, lease_s=5.0) is None
    second = await claimed(store, at=60.0)
    assert (second.id, second.attempts, second.next_at) == (first.id, 1, 65.0)
    assert (second.last_error, second.last_status) == ("it said 500", 500)
    await store.attempted(second, Attempted(status=DeliveryStatus.DELIVERED, next_at=61.0))
    (done,) = await store.deliveries(ATELIER)
    assert (done.status, done.attempts, done.last_error, done.last_status) == (
        "delivered",
        2,
        None,
        None,
    )
    assert await store.claim_delivery(at=1e6, lease_s=5.0) is None


async def test_an_attempt_that_came_too_late_is_not_noted(store: Store) -> None:
    await cancelled(store)
    first = await claimed(store, at=10.0)
    second = await claimed(store, at=15.0)
    await store.attempted(first, Attempted(status=DeliveryStatus.DEAD, next_at=20.0))
    assert await store.deliveries(ATELIER) == (second,)


async def test_what_was_given_up_is_sent_again_when_its_owner_says_so(store: Store) -> None:
    await cancelled(store)
    delivery = await claimed(store, at=10.0)
    await store.attempted(delivery, Attempted(status=DeliveryStatus.DEAD, next_at=11.0, error="no"))
    (dead,) = await store.deliveries(ATELIER, status=DeliveryStatus.DEAD)
    assert await store.deliveries(ATELIER, status=DeliveryStatus.WAITING) == ()
    assert await store.redeliver(Owner(tenant="other"), dead.id, at=40.0) is None
    assert await store.redeliver(ATELIER, "msg_nothing", at=40.0) is None
    waiting = await store.redeliver(ATELIER, dead.id, at=40.0)
    assert waiting is not None
    assert (waiting.status, waiting.attempts, waiting.next_at) == ("waiting", 0, 40.0)
    assert (await claimed(store, at=40.0)).id == dead.id


async def test_owners_see_their_own_the_newest_first(store: Store) -> None:
    for number, tenant in enumerate(["a", "b", "a", "", "a"], start=1):
        await cancelled(store, number, tenant)
    listed = await store.deliveries(Owner(tenant="a"))
    assert [delivery.job_id for delivery in listed] == ["job_5", "job_3", "job_1"]
    assert len(await store.deliveries(Owner(tenant="a"), limit=2)) == 2
    assert await store.deliveries(Owner(tenant="")) == ()


async def test_what_waits_is_sent_of_a_job_that_is_gone(store: Store) -> None:
    await cancelled(store)
    job = await store.get("job_1")
    assert await store.delete("job_1") == job
    due = await store.claim_delivery(at=10.0, lease_s=5.0)
    assert due is not None
    assert due.job == job
    again = Attempted(status=DeliveryStatus.WAITING, next_at=60.0, error="it said 500")
    await store.attempted(due.delivery, again)
    due = await store.claim_delivery(at=60.0, lease_s=5.0)
    assert due is not None
    assert (due.job, due.delivery.attempts) == (job, 1)
    assert await store.deliveries(ATELIER) == (due.delivery,)


@pytest.mark.parametrize("status", [DeliveryStatus.DELIVERED, DeliveryStatus.DEAD])
async def test_of_a_job_that_is_gone_nothing_is_left_once_it_was_told(
    store: Store, status: DeliveryStatus
) -> None:
    await cancelled(store)
    delivery = await claimed(store, at=10.0)
    await store.delete("job_1")  # while it is sent
    await store.attempted(delivery, Attempted(status=status, next_at=11.0))
    assert await store.deliveries(ATELIER) == ()
    assert await store.redeliver(ATELIER, delivery.id, at=20.0) is None
    assert await store.claim_delivery(at=1e6, lease_s=5.0) is None


async def test_what_was_told_goes_with_its_job(store: Store) -> None:
    await cancelled(store)
    await cancelled(store, 2)
    for status in (DeliveryStatus.DELIVERED, DeliveryStatus.DEAD):
        delivery = await claimed(store, at=20.0)
        await store.attempted(delivery, Attempted(status=status, next_at=21.0))
    await store.delete("job_1")
    assert [each.job_id for each in await store.deliveries(ATELIER)] == ["job_2"]
    await store.delete("job_2")
    assert await store.deliveries(ATELIER) == ()
