"""The stores under test: each over one set of data, which several may have open."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from serve.jobs.store.open_store import Store
from serve.jobs.store.redis import RedisStore
from serve.jobs.store.sqlite import SqliteStore
from tests.serve.jobs.store.redis_server import RedisServer, redis_server
from tests.serve.jobs.store.samples import TTL_S, Clock

__all__ = ["redis_server"]

OpenStore = Callable[..., Awaitable[Store]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "redis"])
async def open_store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> AsyncIterator[OpenStore]:
    """Opens another store over the test's data, as another replica would, with its own `clock`."""
    url = None
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        url = server.url
    opened: list[Store] = []

    async def open_store(clock: Clock = clock) -> Store:
        store = (
            SqliteStore(tmp_path / "jobs" / "jobs.sqlite3", ttl_s=TTL_S, clock=clock)
            if url is None
            else RedisStore(url, ttl_s=TTL_S, clock=clock)
        )
        await store.open()
        opened.append(store)
        return store

    yield open_store
    for store in opened:
        await store.close()


@pytest.fixture
async def store(open_store: OpenStore) -> Store:
    return await open_store()
