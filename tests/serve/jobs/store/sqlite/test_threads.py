"""Whatever fails on the thread that writes, nobody waits for ever; the next write begins anew."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from pipelines.errors import StoreUnavailable
from serve.jobs.store.sqlite.database import Database
from serve.jobs.store.sqlite.threads import Readers, Writer


class Faulty(sqlite3.Connection):
    """Raises `errors` in place of running the statements that begin so."""

    errors: dict[str, BaseException]

    def execute(self, sql: str, *arguments: object) -> sqlite3.Cursor:
        for start, error in self.errors.items():
            if sql.startswith(start):
                raise error
        return super().execute(sql, *arguments)  # pyright: ignore[reportArgumentType]


class FaultyDatabase(Database):
    """`connections` that fail with `errors`, as long as a test says so."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, busy_timeout_s=5.0)
        self.errors: dict[str, BaseException] = {}
        self.connections: list[Faulty] = []

    def connect(self, *, read_only: bool = False) -> sqlite3.Connection:
        if "connect" in self.errors:
            raise self.errors["connect"]
        connection = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, factory=Faulty
        )
        connection.errors = self.errors
        self.connections.append(connection)
        return connection


@pytest.fixture
def database(tmp_path: Path) -> FaultyDatabase:
    made = FaultyDatabase(tmp_path / "jobs.sqlite3")
    made.prepare().close()
    made.connections.clear()
    return made


@pytest.fixture
async def writer(database: FaultyDatabase) -> AsyncIterator[Writer]:
    made = Writer(database, database.connect())
    await made.run(lambda db: db.execute("CREATE TABLE numbers (number INTEGER)"))
    yield made
    database.errors.clear()
    await asyncio.to_thread(made.close)


def insert(number: int) -> Callable[[sqlite3.Connection], None]:
    def work(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO numbers VALUES (?)", (number,))

    return work


def numbers(db: sqlite3.Connection) -> list[int]:
    return [number for (number,) in db.execute("SELECT number FROM numbers ORDER BY number")]


BROKEN = sqlite3.OperationalError("disk I/O error")


@pytest.mark.parametrize(
    "errors",
    [
        {"COMMIT": BROKEN, "ROLLBACK": BROKEN},
        {"COMMIT": BROKEN},
        {"BEGIN": BROKEN},
        {"PRAGMA synchronous": BROKEN},
        {"COMMIT": BROKEN, "ROLLBACK": BROKEN, "connect": BROKEN},
        {"COMMIT": MemoryError("no memory")},
        {"COMMIT": BROKEN, "ROLLBACK": MemoryError("no memory")},
        {"RELEASE": BROKEN, "ROLLBACK": BROKEN},
    ],
)
async def test_a_write_that_breaks_ends_and_the_next_begins_anew(
    writer: Writer, database: FaultyDatabase, errors: dict[str, BaseException]
) -> None:
    await writer.run(insert(1))
    database.errors |= errors
    told = await asyncio.gather(*(writer.run(insert(n)) for n in (2, 3)), return_exceptions=True)
    assert all(isinstance(error, Exception) for error in told)
    if "ROLLBACK" in errors or "BEGIN" in errors:
        assert all(isinstance(error, StoreUnavailable) for error in told)
    database.errors.clear()
    await writer.run(insert(4))
    assert await writer.run(numbers) == [1, 4]


async def test_a_connection_that_is_gone_is_replaced(
    writer: Writer, database: FaultyDatabase
) -> None:
    database.connections[-1].close()
    with pytest.raises(StoreUnavailable, match="closed database"):
        await writer.run(insert(1))
    await writer.run(insert(2))
    assert await writer.run(numbers) == [2]
    assert len(database.connections) == 2


async def test_a_reader_whose_connection_broke_reads_on(
    writer: Writer, database: FaultyDatabase
) -> None:
    await writer.run(insert(1))
    readers = Readers(database)
    try:
        assert await readers.run(numbers) == [1]
        database.errors["ROLLBACK"] = BROKEN
        with pytest.raises(sqlite3.Error):
            await readers.run(numbers)
        database.errors.clear()
        for _ in range(10):
            assert await readers.run(numbers) == [1]
    finally:
        await asyncio.to_thread(readers.close)
    with pytest.raises(StoreUnavailable, match="is closed"):
        await readers.run(numbers)


async def test_what_comes_while_it_closes_is_done_or_refused(database: FaultyDatabase) -> None:
    """The queue is made to wait where a write that was let in could be put behind the end."""
    writer = Writer(database, database.connect())
    let_in, may_go_on = threading.Event(), threading.Event()
    put = writer._queue.put

    class Slow:
        def __getattr__(self, name: str) -> object:
            return getattr(queue, name)

        def put(self, write: object) -> None:
            if write is not None:
                let_in.set()
                may_go_on.wait()
            put(write)  # pyright: ignore[reportArgumentType]

    queue = writer._queue
    writer._queue = Slow()  # pyright: ignore[reportAttributeAccessIssue]
    written = asyncio.to_thread(asyncio.run, writer.run(lambda _: "done"))
    writing = asyncio.create_task(written)
    await asyncio.to_thread(let_in.wait)
    closing = asyncio.create_task(asyncio.to_thread(writer.close))
    closed, _ = await asyncio.wait([closing], timeout=0.2)
    may_go_on.set()
    assert not closed, "it has left behind what it had let in"
    assert await writing == "done"
    await closing
    with pytest.raises(StoreUnavailable, match="is closed"):
        await writer.run(lambda _: None)
