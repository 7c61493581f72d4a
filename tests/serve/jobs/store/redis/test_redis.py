"""A Redis that goes away and comes back, and one that cannot keep jobs."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import tempfile
from collections.abc import AsyncIterator

import pytest

from pipelines.errors import ConfigurationError, StoreUnavailable
from serve.jobs.job import JobAction, JobStatus
from serve.jobs.store.delivery_store import Attempted, DeliveryStatus
from serve.jobs.store.job_store import Update
from serve.jobs.store.redis import RedisStore
from serve.jobs.store.redis.connection import VERSION
from tests.serve.jobs.store.redis_server import RedisServer, running_redis
from tests.serve.jobs.store.samples import ATELIER, LEASE_S, TTL_S, UNBOUNDED, Clock, a_job

PASSWORD = "swordfish"


@pytest.fixture
async def store(redis_server: RedisServer) -> AsyncIterator[RedisStore]:
    store = RedisStore(redis_server.url, ttl_s=TTL_S)
    await store.open()
    yield store
    await store.close()


async def refusal(url: str) -> str:
    """Why a store is refused."""
    store = RedisStore(url, ttl_s=TTL_S)
    with pytest.raises(ConfigurationError) as refused:
        await store.open()
    await store.close()
    return refused.value.message


async def test_calls_fail_while_redis_is_away_and_nothing_is_lost(
    store: RedisStore, redis_server: RedisServer
) -> None:
    await store.submit(a_job("job_1"), UNBOUNDED)
    lease = await store.claim("runner", lease_s=LEASE_S, at=2.0, free=1)
    assert lease is not None
    part = {0: bytes(range(256))}
    await store.update("job_1", lease.token, Update(at=3.0, changes={}, parts=part))
    redis_server.kill()
    for call in (
        store.get("job_1"),
        store.page(ATELIER),
        store.submit(a_job("job_2"), UNBOUNDED),
        store.renew("job_1", lease.token, lease_s=LEASE_S),
        store.changed("job_1", after=2, timeout_s=60.0),
    ):
        with pytest.raises(StoreUnavailable, match="cannot be used now"):
            await call
    await asyncio.to_thread(redis_server.start)
    assert await store.get("job_1") == lease.job
    assert await store.get("job_2") is None
    assert await store.renew("job_1", lease.token, lease_s=LEASE_S) is None
    await store.release("job_1", lease.token)
    again = await store.claim("runner", lease_s=LEASE_S, at=4.0, free=1)
    assert again is not None
    assert again.parts == part


async def test_a_lease_is_not_lost_because_redis_was_away(redis_server: RedisServer) -> None:
    clock = Clock()
    store, other = (RedisStore(redis_server.url, ttl_s=TTL_S, clock=clock) for _ in range(2))
    await store.open()
    await other.open()
    await store.submit(a_job("job_1"), UNBOUNDED)
    lease = await store.claim("runner", lease_s=LEASE_S, at=2.0, free=1)
    assert lease is not None
    assert await other.claim("other", lease_s=LEASE_S, at=3.0, free=1) is None
    redis_server.kill()
    with pytest.raises(StoreUnavailable):
        await other.claim("other", lease_s=LEASE_S, at=4.0, free=1)
    await asyncio.to_thread(redis_server.start)
    clock.now += 2 * LEASE_S
    assert await other.claim("other", lease_s=LEASE_S, at=5.0, free=1) is None
    clock.now += LEASE_S - 1
    assert await store.renew("job_1", lease.token, lease_s=LEASE_S) is None
    assert await other.claim("other", lease_s=LEASE_S, at=6.0, free=1) is None
    clock.now += LEASE_S
    assert await other.claim("other", lease_s=LEASE_S, at=7.0, free=1) is not None
    await store.close()
    await other.close()


async def test_a_redis_that_is_killed_has_lost_nothing_that_it_accepted(
    store: RedisStore, redis_server: RedisServer
) -> None:
    accepted: list[str] = []
    halfway = asyncio.Event()

    async def submit_all(name: str) -> None:
        for number in range(100_000):
            await store.submit(a_job(f"job_{name}_{number}"), UNBOUNDED)
            accepted.append(f"job_{name}_{number}")
            if len(accepted) == 100:
                halfway.set()

    submitters = [asyncio.create_task(submit_all(name)) for name in "abcd"]
    await halfway.wait()
    redis_server.kill()
    for submitter in submitters:
        with pytest.raises(StoreUnavailable):
            await submitter
    await asyncio.to_thread(redis_server.start)
    found = await asyncio.gather(*(store.get(job_id) for job_id in accepted))
    assert None not in found
    # One that was on its way from each may be there too, whole.
    assert len(accepted) <= (await store.waiting()).jobs <= len(accepted) + 4


async def test_who_waits_for_a_change_hears_that_redis_went_away(
    store: RedisStore, redis_server: RedisServer
) -> None:
    await store.submit(a_job("job_1"), UNBOUNDED)
    waiting = asyncio.create_task(store.changed("job_1", after=1, timeout_s=60.0))
    await asyncio.sleep(0)
    await asyncio.to_thread(redis_server.kill)
    with pytest.raises(StoreUnavailable):
        await waiting


async def test_a_redis_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.jobs.store.redis.connection.CALL_TIMEOUT_S", 0.05)
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as silent:
        path = f"{folder}/silent.sock"
        silent.bind(path)
        silent.listen()
        store = RedisStore(f"unix://{path}", ttl_s=TTL_S)
        with pytest.raises(StoreUnavailable, match=path):
            await store.open()
        await store.close()


async def test_a_redis_that_is_not_there() -> None:
    store = RedisStore(f"redis://:{PASSWORD}@127.0.0.1:1/3", ttl_s=TTL_S)
    with pytest.raises(StoreUnavailable, match=r"redis://127\.0\.0\.1:1/3") as refused:
        await store.open()
    assert PASSWORD not in str(refused.value)
    await store.close()


async def test_a_write_whose_answer_was_lost_is_not_made_twice(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = store._redis.run

    async def run_twice(name: str, *arguments: str | bytes) -> object:
        await run(name, *arguments)
        return await run(name, *arguments)

    monkeypatch.setattr(store._redis, "run", run_twice)
    assert not (await store.submit(a_job("job_1", idempotency_key="k"), UNBOUNDED)).is_replay
    asked = await store.ask("job_1", JobAction.CANCEL, 2.0)
    assert asked is not None
    assert (asked.status, asked.last_event) == (JobStatus.CANCELLED, 2)
    assert len(await store.events("job_1", after=0)) == 2


async def late_writes(store: RedisStore) -> int:
    """Writes that Redis has not done as they came too late."""
    found = await store._redis.call(lambda redis: redis.info("errorstats"))
    return found.get("errorstat_LATE", {"count": 0})["count"]


async def test_what_was_refused_while_redis_stood_still_is_not_done_later(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the write already when it begins to stand still: it would do that when it goes on."""
    monkeypatch.setattr("serve.jobs.store.redis.connection.CALL_TIMEOUT_S", 1.0)
    monkeypatch.setattr("serve.jobs.store.redis.connection.ANSWER_S", 0.5)
    store = RedisStore(redis_server.url, ttl_s=TTL_S)
    await store.open()
    await store.submit(a_job("job_1"), UNBOUNDED)
    lease = await store.claim("runner", lease_s=LEASE_S, at=2.0, free=1)
    assert lease is not None
    await store.renew("job_1", lease.token, lease_s=LEASE_S)  # Redis has all scripts now
    step = Update(at=3.0, changes={}, events=[("job.progress", {})])
    time = store._redis._client.time

    async def time_and_stand_still() -> object:
        now = await time()
        redis_server.stand_still()
        return now

    late = await late_writes(store)
    for write in (
        lambda: store.submit(a_job("job_2", idempotency_key="k"), UNBOUNDED),
        lambda: store.update("job_1", lease.token, step),
        lambda: store.ask("job_1", JobAction.CANCEL, 4.0),
        lambda: store.release("job_1", lease.token),
    ):
        monkeypatch.setattr(store._redis._client, "time", time_and_stand_still)
        with pytest.raises(StoreUnavailable, match="no answer in 1 s"):
            await write()
        monkeypatch.setattr(store._redis._client, "time", time)
        redis_server.go_on()
        late += 1
        while await late_writes(store) < late:
            pass
    assert await store.get("job_2") is None
    assert await store.find(ATELIER, "k") is None
    assert await store.get("job_1") == lease.job
    assert await store.renew("job_1", lease.token, lease_s=LEASE_S) is None
    assert (await store.submit(a_job("job_3", idempotency_key="k"), UNBOUNDED)).job.id == "job_3"
    await store.close()


async def test_a_write_that_was_held_up_on_its_way_is_sent_again(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = store._redis._client.time
    clocks = [0, 1]

    async def behind() -> tuple[int, int]:
        seconds, microseconds = await time()
        return seconds - 3600 * (1 - clocks.pop(0)), microseconds

    monkeypatch.setattr(store._redis._client, "time", behind)
    late = await late_writes(store)
    assert (await store.submit(a_job("job_1"), UNBOUNDED)).job.id == "job_1"
    assert await late_writes(store) == late + 1
    clocks[:] = [0, 0]
    with pytest.raises(StoreUnavailable, match="LATE"):
        await store.submit(a_job("job_2"), UNBOUNDED)
    assert (await store.waiting()).jobs == 1


async def test_a_redis_that_stands_still_is_away_and_then_back(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.jobs.store.redis.connection.CALL_TIMEOUT_S", 1.0)
    monkeypatch.setattr("serve.jobs.store.redis.connection.ANSWER_S", 0.5)
    store = RedisStore(redis_server.url, ttl_s=TTL_S)
    await store.open()
    redis_server.stand_still()
    with pytest.raises(StoreUnavailable, match="no answer in 1 s"):
        await store.submit(a_job("job_1"), UNBOUNDED)
    redis_server.go_on()
    assert (await store.submit(a_job("job_2"), UNBOUNDED)).job.id == "job_2"
    assert (await store.waiting()).jobs == 1
    await store.close()


async def test_a_full_memory_loses_nothing(redis_server: RedisServer, store: RedisStore) -> None:
    await store.submit(a_job("job_1"), UNBOUNDED)
    lease = await store.claim("runner", lease_s=LEASE_S, at=2.0, free=1)
    assert lease is not None
    await store._redis.call(lambda redis: redis.config_set("maxmemory", "1"))
    with pytest.raises(StoreUnavailable):
        await store.submit(a_job("job_2"), UNBOUNDED)
    done = Update(at=3.0, changes={"status": JobStatus.SUCCEEDED})
    with pytest.raises(StoreUnavailable):
        await store.update("job_1", lease.token, done)
    assert await store.get("job_1") == lease.job
    await store._redis.call(lambda redis: redis.config_set("maxmemory", "0"))
    assert (await store.update("job_1", lease.token, done)).last_event == 3
    await store.submit(a_job("job_2"), UNBOUNDED)
    assert (await store.waiting()).jobs == 1


@pytest.mark.usefixtures("redis_server")
async def test_a_redis_that_forgets_keys() -> None:
    with running_redis("--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru") as server:
        assert "maxmemory-policy allkeys-lru" in await refusal(server.url)
    with running_redis("--maxmemory-policy", "allkeys-lru") as server:
        store = RedisStore(server.url, ttl_s=TTL_S)
        await store.open()
        await store.close()


@pytest.mark.usefixtures("redis_server")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--appendonly", "no"), "keeps jobs in memory only"),
        (("--appendonly", "no", "--save", "900 1"), "since its last snapshot"),
        (("--appendfsync", "everysec"), "of its last seconds"),
        ((), ""),
    ],
)
async def test_a_redis_that_may_lose_jobs(
    options: tuple[str, ...], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    with running_redis(*options) as server, caplog.at_level(logging.WARNING, "ray.serve"):
        store = RedisStore(server.url, ttl_s=TTL_S)
        await store.open()
        await store.close()
    assert told in caplog.text
    assert bool(caplog.text) == bool(told)


@pytest.mark.usefixtures("redis_server")
async def test_a_password_is_needed_and_never_told() -> None:
    with running_redis("--requirepass", PASSWORD) as server:
        wrong = server.url.replace("unix://", "unix://:wrong-word@")
        message = await refusal(wrong)
        assert "user name and password" in message
        assert "wrong-word" not in message
        assert "user name and password" in await refusal(server.url)
        store = RedisStore(server.url.replace("unix://", f"unix://:{PASSWORD}@"), ttl_s=TTL_S)
        await store.open()
        await store.submit(a_job("job_1"), UNBOUNDED)
        await store.close()


async def test_jobs_of_a_newer_version(store: RedisStore, redis_server: RedisServer) -> None:
    await store._redis.call(lambda redis: redis.set("{sluice}:version", VERSION + 1))
    assert f"version {VERSION + 1}, written by a newer Sluice" in await refusal(redis_server.url)


async def test_stores_with_other_prefixes_share_nothing(
    store: RedisStore, redis_server: RedisServer
) -> None:
    other = RedisStore(redis_server.url, ttl_s=TTL_S, prefix="other")
    await other.open()
    await other.submit(a_job("job_1"), UNBOUNDED)
    assert await store.get("job_1") is None
    keys: list[bytes] = await store._redis.call(lambda redis: redis.keys("*"))
    assert all(key.startswith((b"{sluice}:", b"{other}:")) for key in keys)
    await other.close()


async def test_nothing_is_left_of_jobs_that_are_deleted(store: RedisStore) -> None:
    await store.submit(a_job("job_1", idempotency_key="k", webhook="https://a.test/"), UNBOUNDED)
    await store.ask("job_1", JobAction.CANCEL, 2.0)
    await store.delete("job_1")
    due = await store.claim_delivery(at=2.0, lease_s=5.0)
    assert due is not None
    await store.attempted(due.delivery, Attempted(status=DeliveryStatus.DELIVERED, next_at=3.0))
    keys = await store._redis.call(lambda redis: redis.keys("*"))
    assert sorted(keys) == [b"{sluice}:total", b"{sluice}:version"]


@pytest.mark.parametrize(
    "url", [f"redis://:{PASSWORD}/x@host/", f"redis://:{PASSWORD}@host:port/", "redis://host/first"]
)
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"redis://HOST:PORT/DATABASE") as refused:
        RedisStore(url, ttl_s=TTL_S)
    assert PASSWORD not in refused.value.message
    assert refused.value.__cause__ is None


def test_without_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "redis"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'sluice\[redis\]'"):
        RedisStore("redis://localhost", ttl_s=TTL_S)
