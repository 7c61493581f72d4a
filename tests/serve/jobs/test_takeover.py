"""Runners that are lost, cut off, shut down or asked elsewhere: jobs go on, to the same bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from serve.jobs.job import Job, JobStatus
from serve.jobs.running.job_run import MAX_ATTEMPTS
from serve.jobs.running.lease_keeper import LEASE_S
from serve.jobs.store.job_store import Update
from serve.jobs.store.redis import RedisStore
from serve.jobs.store.sqlite import SqliteStore
from tests.serve.jobs.conftest import OWNER, TTL_S, Replica, ReplicaOf, StoreOf
from tests.serve.jobs.store.redis_server import RedisServer, redis_server

__all__ = ["redis_server"]


@pytest.fixture(params=["sqlite", "redis"])
def store_of(request: pytest.FixtureRequest, tmp_path: Path) -> StoreOf:
    """All of it over both."""
    if request.param == "sqlite":
        return lambda clock: SqliteStore(tmp_path / "jobs.sqlite3", ttl_s=TTL_S, clock=clock)
    server: RedisServer = request.getfixturevalue("redis_server")
    return lambda clock: RedisStore(server.url, ttl_s=TTL_S, clock=clock)


async def quiet_twin(replica_of: ReplicaOf, **body: Any) -> list[bytes]:
    """The files of such a job where nothing happens."""
    replica = await replica_of()
    replica.graph.allow()
    files = files_of(replica, await replica.over(await replica.submit(**body)))
    await replica.jobs.close()
    return files


def files_of(replica: Replica, job: Job) -> list[bytes]:
    return [replica.graph.store.files[output.file_id].data for output in job.outputs]


def all_steps(seeds: Sequence[int], steps: int = 4) -> list[tuple[int, int]]:
    return [(seed, step) for seed in seeds for step in range(1, steps + 1)]


async def numbers(replica: Replica, job: Job) -> list[int | None]:
    return [event.number async for event in replica.jobs.events(job.id, OWNER)]


async def until_written(replica: Replica, job: Job, steps: int) -> None:
    """Until so many steps of all images are in the store."""
    async for event in replica.jobs.events(job.id, OWNER):
        if event.type == "job.progress" and event.data["progress"]["step"] == steps:
            return


async def test_another_goes_on_where_the_first_was_lost(replica_of: ReplicaOf):
    twin = await quiet_twin(replica_of, n=3)
    first = await replica_of()
    job = await first.submit(n=3)
    first.graph.allow(6)  # one image, and half of another
    await until_written(first, job, 6)
    first.store.is_cut = True
    second = await replica_of(hasty=2)
    second.graph.allow()
    over = await second.over(job)
    assert (over.status, over.attempts) == (JobStatus.SUCCEEDED, 2)
    assert files_of(second, over) == twin
    assert first.graph.stepped + second.graph.stepped == all_steps([7, 8, 9])
    assert first.graph.drawn + second.graph.drawn == [7, 8, 9]
    found = await numbers(second, job)
    assert found == list(range(1, len(found) + 1))


async def test_who_was_cut_off_for_too_long_stops_and_says_nothing(replica_of: ReplicaOf):
    first = await replica_of()
    job = await first.submit()
    first.graph.allow(2)
    await until_written(first, job, 2)
    first.store.is_cut = True
    second = await replica_of(hasty=2)
    second.graph.allow(1)
    await until_written(second, job, 3)
    first.store.is_cut = False
    first.graph.allow(1)  # it writes that, and learns of the other
    while job.id not in first.graph.cancelled and not first.graph.drawn:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    second.graph.allow()
    over = await second.over(job)
    assert (over.status, over.attempts) == (JobStatus.SUCCEEDED, 2)
    assert first.graph.drawn == []
    found = await numbers(second, job)
    assert found == list(range(1, len(found) + 1))


async def test_answers_that_get_lost_double_nothing(replica_of: ReplicaOf):
    replica = await replica_of()
    replica.store.loses_answers = True
    job = await replica.submit(n=2)
    for step in range(1, 9):
        replica.graph.allow(1)
        await until_written(replica, job, min(step, 8))
    over = await replica.over(job)
    events = [event async for event in replica.jobs.events(job.id, OWNER)]
    assert [event.number for event in events] == list(range(1, over.last_event + 1))
    told = [(event.type, str(event.data)) for event in events]
    assert sorted(set(told)) == sorted(told)
    assert [event.type for event in events].count("job.image") == 2


async def test_of_who_lost_a_job_no_files_are_left(replica_of: ReplicaOf):
    first = await replica_of()
    job = await first.submit(n=2)
    first.graph.allow(4)
    await first.until(job, "job.image")
    first.store.is_cut = True  # the second image is stored as a file, and that is not written
    first.graph.allow(4)
    while len(first.graph.drawn) < 2:  # noqa: ASYNC110 some turns of the loop later
        await asyncio.sleep(0)
    files = first.graph.store.files
    assert len(files) == 2
    second = await replica_of(hasty=2)
    second.graph.allow()
    over = await second.over(job)
    assert len(files) == 3
    first.store.is_cut = False
    while len(files) > 2:  # noqa: ASYNC110 until it hears that the job is another's
        await asyncio.sleep(0.01)
    assert {output.file_id for output in over.outputs} == set(files)


async def test_a_replica_that_goes_away_gives_its_jobs_back(replica_of: ReplicaOf):
    twin = await quiet_twin(replica_of)
    first = await replica_of()
    job = await first.submit()
    first.graph.allow(3)
    while len(first.graph.stepped) < 3:  # noqa: ASYNC110 some turns of the loop later
        await asyncio.sleep(0)
    await first.jobs.close()
    second = await replica_of()  # in no haste: it is there to be claimed
    second.graph.allow()
    over = await second.over(job)
    assert files_of(second, over) == twin
    assert first.graph.stepped + second.graph.stepped == all_steps([7])
    assert over.attempts == 1  # none was lost


async def test_a_job_that_no_runner_survives_fails_with_a_reason(replica_of: ReplicaOf):
    first = await replica_of(runs=False)
    job = await first.submit()
    hasty = (await replica_of(runs=False, hasty=100)).store.store
    for _ in range(MAX_ATTEMPTS):
        while (
            await hasty.claim("lost", lease_s=LEASE_S, at=1.0, free=10)
        ) is None:  # the first look sees who holds it, the second that nobody renews
            pass
    last = await replica_of(hasty=2)
    over = await last.over(job)
    assert over.status == JobStatus.FAILED
    assert over.error is not None
    assert over.error.message == "its runner was lost 5 times"
    assert last.graph.jobs == []


async def test_asked_of_another_replica(replica_of: ReplicaOf):
    first, second = await replica_of(), await replica_of(runs=False)
    job = await first.submit()
    await first.graph.entered.acquire()
    asked = await second.jobs.cancel(job.id, OWNER)
    assert asked.pending_action == "cancel"
    first.graph.allow(1)  # found with the next thing that is written
    assert (await second.over(job)).status == JobStatus.CANCELLED


async def test_replicas_tell_each_other(replica_of: ReplicaOf):
    first, second = await replica_of(), await replica_of(runs=False)
    told: list[str] = []

    async def ask_all(method: str, job_id: str, *arguments: Any) -> list[Any]:
        assert method == "job_action"
        told.append(job_id)
        return [first.jobs.on_action(job_id, *arguments), second.jobs.on_action(job_id, *arguments)]

    second.jobs._ask_all = ask_all
    job = await first.submit()
    await first.graph.entered.acquire()
    await second.jobs.cancel(job.id, OWNER)
    assert (await second.over(job)).status == JobStatus.CANCELLED
    assert told == [job.id]  # its runner would have heard of it later, with its lease


async def test_previews_of_another_replica(replica_of: ReplicaOf):
    first, second = await replica_of(), await replica_of(runs=False)

    async def ask_all(method: str, job_id: str, *arguments: Any) -> list[Any]:
        assert method == "job_previews"
        asyncio.get_running_loop().call_soon(first.graph.allow, 1)
        return [
            ConnectionError("a replica that has died"),
            await second.jobs.previews(job_id, *arguments),
            await first.jobs.previews(job_id, *arguments),
        ]

    second.jobs._feed._remote._ask_all = ask_all
    job = await first.submit()
    await first.graph.entered.acquire()
    types: list[str] = []
    async for event in second.jobs.events(job.id, OWNER, previews=True):
        types.append(event.type)
        if event.type == "job.preview":
            assert event.data["image"] == 0
            assert event.data["step"] >= 1
            first.graph.allow()
    assert types[-1] == "job.succeeded"
    assert "job.preview" in types


async def test_a_damaged_part_is_drawn_anew(replica_of: ReplicaOf):
    twin = await quiet_twin(replica_of)
    first = await replica_of(runs=False)
    job = await first.submit()
    lease = await first.store.store.claim("lost", lease_s=LEASE_S, at=1.0, free=10)
    assert lease is not None
    damaged = Update(at=1.0, changes={}, parts={0: b"damaged"})
    await first.store.store.update(job.id, lease.token, damaged)
    await first.store.store.release(job.id, lease.token)
    second = await replica_of()
    second.graph.allow()
    assert files_of(second, await second.over(job)) == twin


async def test_a_model_that_is_not_served_any_more(replica_of: ReplicaOf):
    first = await replica_of(runs=False, served_model_name="old")
    job = await first.submit()
    second = await replica_of(served_model_name="new")
    over = await second.over(job)
    assert over.error is not None
    assert over.error.code == "model_not_found"
