"""A job's events as they come, with what happens between two looks at the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import StoreUnavailable
from serve.jobs.event_feed import EventFeed
from serve.jobs.job import JobAction, JobEvent
from serve.jobs.store.sqlite import SqliteStore
from tests.serve.jobs.store.samples import TTL_S, UNBOUNDED, a_job

JOB = "job_1"
ALL = [(1, "job.queued"), (2, "job.cancelled")]


class Meanwhile:
    """A store where the job is cancelled as soon as its events have been read for the second time:
    it is over when it is looked at, and its last event has not been seen."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.looks = 0

    async def events(self, job_id: str, *, after: int) -> tuple[JobEvent, ...]:
        events = await self._store.events(job_id, after=after)
        self.looks += 1
        if self.looks == 2:
            await self._store.ask(job_id, JobAction.CANCEL, 3.0)
        return events

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class Away:
    """A store that cannot be read for so many looks."""

    def __init__(self, store: SqliteStore, *, looks: int) -> None:
        self._store = store
        self._looks = looks
        self.is_back = asyncio.Event()

    async def events(self, job_id: str, *, after: int) -> tuple[JobEvent, ...]:
        if self._looks > 0:
            self._looks -= 1
            raise StoreUnavailable("the store is away", retry_after_s=0.001)
        self.is_back.set()
        return await self._store.events(job_id, after=after)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """With one job, which is queued."""
    store = SqliteStore(tmp_path / "jobs.sqlite3", ttl_s=TTL_S)
    await store.open()
    await store.submit(a_job(JOB), UNBOUNDED)
    yield store
    await store.close()


async def followed(store: Any) -> list[tuple[int | None, str]]:
    feed = EventFeed(store, lambda _: None, None, lambda: 1.0)
    return [(event.number, event.type) async for event in feed.follow(JOB, after=0)]


async def test_what_comes_between_two_looks_is_told(store: SqliteStore):
    assert await followed(Meanwhile(store)) == ALL


async def test_a_store_that_is_away_is_waited_for(store: SqliteStore):
    away = Away(store, looks=2)
    following = asyncio.create_task(followed(away))
    await away.is_back.wait()
    await store.ask(JOB, JobAction.CANCEL, 3.0)
    assert await following == ALL
