"""Whatever is done in whatever order, SQLite is where a few lists would be."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from hypothesis import given, settings

from serve.jobs.store.sqlite import SqliteStore
from tests.properties import examples
from tests.serve.jobs.store.model import Operation, follow, sequences
from tests.serve.jobs.store.samples import TTL_S, Clock


@asynccontextmanager
async def empty_store(clock: Clock) -> AsyncIterator[SqliteStore]:
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteStore(Path(folder) / "jobs.sqlite3", ttl_s=TTL_S, clock=clock)
        await store.open()
        yield store
        await store.close()


@settings(max_examples=examples(30))
@given(sequences)
def test_the_store_is_where_the_model_is(sequence: list[Operation]) -> None:
    follow(empty_store, sequence)
