"""Whatever is done in whatever order, Redis is where a few lists would be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hypothesis import given, settings

from serve.jobs.store.redis import RedisStore
from tests.properties import examples
from tests.serve.jobs.store.model import Operation, follow, sequences
from tests.serve.jobs.store.redis_server import RedisServer
from tests.serve.jobs.store.samples import TTL_S, Clock


def test_the_store_is_where_the_model_is(redis_server: RedisServer) -> None:
    @asynccontextmanager
    async def empty_store(clock: Clock) -> AsyncIterator[RedisStore]:
        store = RedisStore(redis_server.url, ttl_s=TTL_S, clock=clock)
        await store.open()
        await store._redis.call(lambda redis: redis.flushall())
        yield store
        await store.close()

    @settings(max_examples=examples(30))
    @given(sequences)
    def follow_on_redis(sequence: list[Operation]) -> None:
        follow(empty_store, sequence)

    follow_on_redis()
