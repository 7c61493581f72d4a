"""What every store of jobs does: submitting, reading, asking and events."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from pipelines.errors import IdempotencyKeyReused
from serve.jobs.job import (
    ImageProgress,
    JobAction,
    JobError,
    JobStatus,
    JobUsage,
    Owner,
)
from serve.jobs.store.job_store import Bounds, Lease, LeaseLost, QueueFull, Update
from serve.jobs.store.open_store import Store
from tests.serve.jobs.store.conftest import OpenStore
from tests.serve.jobs.store.samples import (
    ATELIER,
    LEASE_S,
    TTL_S,
    UNBOUNDED,
    a_job,
    an_output,
)


async def running(store: Store, job_id: str = "job_1", **fields: Any) -> Lease:
    """A job that was submitted and claimed at second 2."""
    await store.submit(a_job(job_id, **fields), UNBOUNDED)
    lease = await store.claim("runner", lease_s=LEASE_S, at=2.0, free=8)
    assert lease is not None
    assert lease.job.id == job_id
    return lease


async def event_types(store: Store, job_id: str) -> list[tuple[int | None, str]]:
    return [(event.number, event.type) for event in await store.events(job_id, after=0)]


async def test_a_submitted_job_is_there_with_its_first_event(store: Store) -> None:
    job = a_job("job_1", webhook="https://a.test/", user="ann", deadline=3.25, priority=-2)
    submitted = await store.submit(job, UNBOUNDED)
    assert not submitted.is_replay
    assert submitted.job == replace(job, last_event=1)
    assert await store.get("job_1") == submitted.job
    (event,) = await store.events("job_1", after=0)
    assert (event.number, event.type, event.at) == (1, "job.queued", 1.0)


async def test_another_replica_reads_what_one_wrote(store: Store, open_store: OpenStore) -> None:
    submitted = await store.submit(a_job("job_1"), UNBOUNDED)
    assert await (await open_store()).get("job_1") == submitted.job


async def test_a_store_that_is_opened_again_has_it_all(store: Store) -> None:
    lease = await running(store)
    await store.close()
    await store.open()
    assert await store.get("job_1") == lease.job
    assert await store.renew("job_1", lease.token, lease_s=LEASE_S) is None


async def test_every_field_comes_back_as_it_was(store: Store) -> None:
    lease = await running(store, request={"prompt": "é \u0000 \U0001f600", "seed": 2**63, "n": 2})
    changes: dict[str, Any] = {
        "status": JobStatus.MODERATED,
        "images": (ImageProgress(image=0, phase="done", step=4, total=4),),
        "outputs": (an_output(10), an_output(20, image=1)),
        "usage": JobUsage(
            input_tokens=1, output_tokens=2, device_seconds=0.1, megapixel_steps=1 / 3
        ),
        "error": JobError(message="no", type="invalid_request_error", code="c", param="prompt"),
        "safety": {"score": 0.9},
        "warnings": ("a", "b"),
        "timings": {"denoise_ms": 1.5},
        "trace_id": "ab" * 16,
    }
    updated = await store.update("job_1", lease.token, Update(at=3.0, changes=changes))
    assert updated == replace(
        lease.job, **changes, last_event=3, finished_at=3.0, expires_at=3.0 + TTL_S
    )
    assert await store.get("job_1") == updated


async def test_what_is_not_there(store: Store) -> None:
    assert await store.get("job_1") is None
    assert await store.find(ATELIER, "key") is None
    assert await store.ask("job_1", JobAction.CANCEL, 1.0) is None
    assert await store.delete("job_1") is None
    assert await store.events("job_1", after=0) == ()
    assert await store.claim("runner", lease_s=LEASE_S, at=1.0, free=9) is None
    await store.release("job_1", "token")
    with pytest.raises(LeaseLost):
        await store.renew("job_1", "token", lease_s=LEASE_S)
    with pytest.raises(LeaseLost):
        await store.update("job_1", "token", Update(at=1.0, changes={}))


async def test_an_idempotency_key_stands_for_one_job(store: Store) -> None:
    first = await store.submit(a_job("job_1", idempotency_key="k"), UNBOUNDED)
    again = await store.submit(a_job("job_2", idempotency_key="k"), UNBOUNDED)
    assert again.is_replay
    assert again.job == first.job
    assert await store.find(ATELIER, "k") == first.job
    assert await store.get("job_2") is None
    with pytest.raises(IdempotencyKeyReused):
        await store.submit(a_job("job_3", idempotency_key="k", body_sha256="c" * 64), UNBOUNDED)
    others = await store.submit(a_job("job_4", idempotency_key="k", tenant="other"), UNBOUNDED)
    assert not others.is_replay


async def test_an_idempotency_key_is_free_when_its_job_is_deleted(store: Store) -> None:
    await store.submit(a_job("job_1", idempotency_key="k"), UNBOUNDED)
    await store.ask("job_1", JobAction.CANCEL, 2.0)
    await store.delete("job_1")
    assert not (await store.submit(a_job("job_2", idempotency_key="k"), UNBOUNDED)).is_replay


async def test_of_many_submits_with_a_key_at_once_one_makes_the_job(
    store: Store, open_store: OpenStore
) -> None:
    stores = [store, await open_store()]
    submitted = await asyncio.gather(
        *(
            stores[number % 2].submit(a_job(f"job_{number}", idempotency_key="k"), UNBOUNDED)
            for number in range(20)
        )
    )
    assert len({each.job.id for each in submitted}) == 1
    assert sum(not each.is_replay for each in submitted) == 1


async def test_no_more_waits_than_the_bounds_allow(store: Store) -> None:
    bounds = Bounds(waiting_s=10.0, waiting_s_per_tenant=6.0)
    await store.submit(a_job("job_1", work_s=4.0), bounds)
    await store.submit(a_job("job_2", work_s=2.0), bounds)
    with pytest.raises(QueueFull) as full:
        await store.submit(a_job("job_3", work_s=0.5), bounds)
    assert (full.value.scope, full.value.waiting_s) == ("tenant", 6.0)
    await store.submit(a_job("job_4", work_s=4.0, tenant="other"), bounds)
    with pytest.raises(QueueFull) as full:
        await store.submit(a_job("job_5", work_s=0.5, tenant="other"), bounds)
    assert (full.value.scope, full.value.waiting_s) == ("server", 10.0)
    assert await store.get("job_5") is None
    assert await store.claim("runner", lease_s=LEASE_S, at=2.0, free=8) is not None
    await store.submit(a_job("job_6", work_s=0.5), bounds)


async def test_a_job_longer_than_the_bounds_is_taken_where_nothing_waits(store: Store) -> None:
    bounds = Bounds(waiting_s=1.0, waiting_s_per_tenant=1.0)
    assert (await store.submit(a_job("job_1", work_s=5.0), bounds)).job.id == "job_1"


async def test_a_full_queue_still_answers_replays(store: Store) -> None:
    bounds = Bounds(waiting_s=1.0, waiting_s_per_tenant=1.0)
    await store.submit(a_job("job_1", idempotency_key="k"), bounds)
    assert (await store.submit(a_job("job_2", idempotency_key="k"), bounds)).is_replay


async def test_pages_go_from_the_newest_to_the_oldest(store: Store) -> None:
    times = {"job_a": 5.0, "job_b": 5.0, "job_c": 5.0, "job_d": 1.0, "job_e": 9.0}
    for job_id, created_at in times.items():
        await store.submit(a_job(job_id, created_at=created_at), UNBOUNDED)
    await store.submit(a_job("job_f", tenant="other"), UNBOUNDED)
    seen: list[str] = []
    before = None
    while found := await store.page(ATELIER, before=before, limit=2):
        seen += [job.id for job in found]
        before = (found[-1].created_at, found[-1].id)
    assert seen == ["job_e", "job_c", "job_b", "job_a", "job_d"]


async def test_pages_of_some_statuses(store: Store) -> None:
    for number in range(4):
        await store.submit(a_job(f"job_{number}", created_at=float(number)), UNBOUNDED)
    await store.ask("job_3", JobAction.CANCEL, 5.0)
    await store.claim("runner", lease_s=LEASE_S, at=6.0, free=1)

    async def ids(*statuses: JobStatus) -> list[str]:
        found = await store.page(ATELIER, statuses=frozenset(statuses), limit=2)
        return [job.id for job in found]

    assert await ids(JobStatus.QUEUED) == ["job_2", "job_1"]
    assert await ids(JobStatus.CANCELLED, JobStatus.RUNNING) == ["job_3", "job_0"]
    assert await ids(JobStatus.FAILED) == []


async def test_nobody_lists_the_jobs_of_those_without_a_name(store: Store) -> None:
    await store.submit(a_job("job_1", tenant=""), UNBOUNDED)
    assert await store.page(Owner(tenant="")) == ()
    assert await store.get("job_1") is not None


async def test_a_queued_job_is_cancelled_at_once(store: Store) -> None:
    await store.submit(a_job("job_1"), UNBOUNDED)
    job = await store.ask("job_1", JobAction.CANCEL, 3.0)
    assert job is not None
    assert (job.status, job.finished_at, job.expires_at) == ("cancelled", 3.0, 3.0 + TTL_S)
    assert await event_types(store, "job_1") == [(1, "job.queued"), (2, "job.cancelled")]
    assert await store.claim("runner", lease_s=LEASE_S, at=4.0, free=8) is None
    assert (await store.waiting()).jobs == 0
    assert await store.ask("job_1", JobAction.CANCEL, 9.0) == job
    assert await store.ask("job_1", JobAction.KEEP, 9.0) == job


async def test_the_runner_hears_what_its_owner_asks(store: Store) -> None:
    lease = await running(store)
    assert await store.renew("job_1", lease.token, lease_s=LEASE_S) is None
    for action, heard in (
        (JobAction.KEEP, JobAction.KEEP),
        (JobAction.CANCEL, JobAction.CANCEL),
        (JobAction.KEEP, JobAction.CANCEL),
    ):
        job = await store.ask("job_1", action, 3.0)
        assert job is not None
        assert (job.status, job.pending_action) == (JobStatus.RUNNING, heard)
        assert await store.renew("job_1", lease.token, lease_s=LEASE_S) == heard
    over = await store.update(
        "job_1", lease.token, Update(at=4.0, changes={"status": JobStatus.CANCELLED})
    )
    assert over.pending_action is None


async def test_a_queued_job_keeps_a_keep_until_it_runs(store: Store) -> None:
    await store.submit(a_job("job_1"), UNBOUNDED)
    await store.ask("job_1", JobAction.KEEP, 2.0)
    lease = await store.claim("runner", lease_s=LEASE_S, at=3.0, free=8)
    assert lease is not None
    assert lease.job.pending_action is JobAction.KEEP


async def test_events_are_numbered_without_gaps_and_end_with_the_final_one(store: Store) -> None:
    lease = await running(store)
    step = Update(
        at=3.0, changes={}, events=[("job.progress", {"step": 1}), ("job.image", {"image": 0})]
    )
    await store.update("job_1", lease.token, step)
    done = Update(at=4.0, changes={"status": JobStatus.SUCCEEDED}, events=[("job.progress", {})])
    assert (await store.update("job_1", lease.token, done)).last_event == 6
    assert await event_types(store, "job_1") == [
        (1, "job.queued"),
        (2, "job.running"),
        (3, "job.progress"),
        (4, "job.image"),
        (5, "job.progress"),
        (6, "job.succeeded"),
    ]
    (third, fourth) = await store.events("job_1", after=2, limit=2)
    assert (third.number, third.data, fourth.data) == (3, {"step": 1}, {"image": 0})


async def test_a_final_event_that_the_runner_gives_is_the_last(store: Store) -> None:
    lease = await running(store)
    failed = Update(
        at=4.0, changes={"status": JobStatus.FAILED}, events=[("job.failed", {"why": "it broke"})]
    )
    await store.update("job_1", lease.token, failed)
    assert (await store.events("job_1", after=2))[0].data == {"why": "it broke"}
    assert (await event_types(store, "job_1"))[2:] == [(3, "job.failed")]


@pytest.mark.parametrize(
    "update",
    [
        Update(at=3.0, changes={"status": JobStatus.QUEUED}),
        Update(at=3.0, changes={"tenant": "other"}),
        Update(at=3.0, changes={"last_event": 9}),
        Update(at=3.0, changes={}, events=[("job.succeeded", {})]),
        Update(at=3.0, changes={"status": JobStatus.FAILED}, events=[("job.succeeded", {})]),
    ],
)
async def test_an_impossible_update_changes_nothing(store: Store, update: Update) -> None:
    lease = await running(store)
    with pytest.raises(ValueError, match="job_1"):
        await store.update("job_1", lease.token, replace(update, parts={0: b"part"}))
    assert await store.get("job_1") == lease.job
    assert len(await store.events("job_1", after=0)) == 2


async def test_a_change_wakes_who_waits_for_it(store: Store, open_store: OpenStore) -> None:
    other = await open_store()
    lease = await running(store)
    assert await store.changed("job_1", after=1, timeout_s=0.0)
    assert not await store.changed("job_1", after=2, timeout_s=0.0)
    waiting = [
        asyncio.create_task(each.changed("job_1", after=2, timeout_s=60.0))
        for each in (store, store, other)
    ]
    await store.update("job_1", lease.token, Update(at=3.0, changes={}, events=[("job.image", {})]))
    assert await asyncio.gather(*waiting) == [True, True, True]


async def test_a_job_that_is_deleted_wakes_who_waits_for_it(
    store: Store, open_store: OpenStore
) -> None:
    other = await open_store()
    lease = await running(store)
    over = await store.update(
        "job_1", lease.token, Update(at=3.0, changes={"status": JobStatus.SUCCEEDED})
    )
    waiting = [
        asyncio.create_task(each.changed("job_1", after=over.last_event, timeout_s=60.0))
        for each in (store, other)
    ]
    assert await store.delete("job_1") == over
    assert await asyncio.gather(*waiting) == [True, True]
    assert await store.changed("job_1", after=99, timeout_s=60.0)


async def test_only_a_job_that_is_over_is_deleted(store: Store) -> None:
    lease = await running(store)
    await store.submit(a_job("job_2"), UNBOUNDED)
    for job_id in ("job_1", "job_2"):
        with pytest.raises(ValueError, match=job_id):
            await store.delete(job_id)
    done = Update(at=3.0, changes={"status": JobStatus.SUCCEEDED, "outputs": (an_output(5),)})
    over = await store.update("job_1", lease.token, done)
    assert await store.delete("job_1") == over
    assert await store.get("job_1") is None
    assert await store.events("job_1", after=0) == ()
    assert await store.over_bytes(0) == ()
    assert await store.expired(at=1e9) == ()
    assert [job.id for job in await store.page(ATELIER)] == ["job_2"]


async def test_all_who_open_a_store_share_its_secret(open_store: OpenStore) -> None:
    first, second = await open_store(), await open_store()
    secret = await first.secret()
    assert len(secret) == 32
    assert await second.secret() == secret
