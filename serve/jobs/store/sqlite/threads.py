"""The threads that SQLite's calls run on: one that writes, a few that read.

Writes that come while one is under way share the next transaction, and with it the wait for the
disk; each is undone by itself if it fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from pipelines.errors import StoreUnavailable
from serve.jobs.store.sqlite.database import Database, unavailable

MAX_BATCH = 128
READERS = 4

logger = logging.getLogger("ray.serve")

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Write:
    """A write and who waits for it; `is_durable` if it must be on disk by then."""

    work: Work[Any]
    is_durable: bool
    done: Future[Any]


class Writer:
    """The one thread of this process that writes, over a connection that it is given. One that
    cannot even be rolled back is left, and the next write begins with another."""

    def __init__(self, database: Database, connection: sqlite3.Connection) -> None:
        self._database = database
        self._connection: sqlite3.Connection | None = connection
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._closed = False
        self._closing = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="job-store-writer", daemon=True)
        self._thread.start()

    async def run(self, work: Work[T], *, is_durable: bool = True) -> T:
        """`work` in a transaction, which has ended when this returns. It may be run again after
        having been undone. Not durable: a power cut may undo it, a crash of this process not."""
        done: Future[T] = Future()
        with self._closing:  # what is put behind the end would wait for ever
            if self._closed:
                raise closed(self._database)
            self._queue.put(_Write(work=work, is_durable=is_durable, done=done))
        return await asyncio.wrap_future(done)

    def close(self) -> None:
        """After what was begun; blocks until then."""
        with self._closing:
            self._closed = True
            self._queue.put(None)
        self._thread.join()
        self._disconnect()

    def _serve(self) -> None:
        is_open = True
        while is_open:
            batch = [self._queue.get()]
            while len(batch) < MAX_BATCH and not self._queue.empty():
                batch.append(self._queue.get())
            is_open = None not in batch
            writes = [write for write in batch if write is not None]
            writes = [write for write in writes if write.done.set_running_or_notify_cancel()]
            if not writes:
                continue
            try:
                self._commit(writes)
            except BaseException as error:  # the boundary of the thread, for which callers wait
                logger.exception("the job store %s: a write broke", self._database.path)
                self._disconnect()
                for write in writes:
                    if not write.done.done():
                        write.done.set_exception(self._failed(error))

    def _commit(self, writes: list[_Write]) -> None:
        is_durable = any(write.is_durable for write in writes)
        try:
            connection = self._connected()
            connection.execute(f"PRAGMA synchronous = {'FULL' if is_durable else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:  # none of them can begin
            self._undo()
            for write in writes:
                write.done.set_exception(self._failed(error))
            return
        try:
            outcomes = [self._attempt(connection, write) for write in writes]
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo()
            if len(writes) == 1:
                is_lost = self._connection is None
                writes[0].done.set_exception(
                    self._failed(error) if is_lost else unavailable(self._database.path, error)
                )
            else:  # which of them it was, and whether there is room for the others
                for write in writes:
                    self._commit([write])
            return
        for write, (result, error) in zip(writes, outcomes, strict=True):
            if error is None:
                write.done.set_result(result)
            else:
                write.done.set_exception(error)

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._database.connect()
        return self._connection

    def _undo(self) -> None:
        """Leave no transaction behind. Where that fails, the connection goes, and it with that."""
        try:
            if self._connection is not None and self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            logger.warning("the job store %s is opened anew: %s", self._database.path, error)
            self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _failed(self, error: BaseException) -> StoreUnavailable:
        return StoreUnavailable(f"the job store {self._database.path} cannot be used now: {error}")

    def _attempt(
        self, connection: sqlite3.Connection, write: _Write
    ) -> tuple[Any, Exception | None]:
        """What it returned or raised, in which case it is undone. Raises sqlite3.Error."""
        connection.execute("SAVEPOINT one")
        try:
            result = write.work(connection)
        except sqlite3.Error:
            raise
        except Exception as error:  # noqa: BLE001 the thread goes on, and whoever asked is told
            connection.execute("ROLLBACK TO one")
            return None, error
        finally:
            if connection.in_transaction:
                connection.execute("RELEASE one")
        return result, None


class Readers:
    """Threads with a connection each, which see what was committed before they began."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._local = threading.local()
        self._connections: set[sqlite3.Connection] = set()
        self._pool = ThreadPoolExecutor(READERS, "job-store-reader")
        self._closed = False
        self._closing = threading.Lock()

    async def run(self, work: Work[T]) -> T:
        with self._closing:  # the pool takes nothing more once it is shut down
            if self._closed:
                raise closed(self._database)
            reading = self._pool.submit(self._read, work)
        return await asyncio.wrap_future(reading)

    def close(self) -> None:
        """After what was begun; blocks until then."""
        with self._closing:
            self._closed = True
        self._pool.shutdown()
        for connection in self._connections:
            connection.close()

    def _read(self, work: Work[T]) -> T:
        try:
            connection = self._connected()
            connection.execute("BEGIN")  # so that all of its statements see the same
            try:
                return work(connection)
            finally:
                connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            self._leave()
            raise unavailable(self._database.path, error) from error

    def _connected(self) -> sqlite3.Connection:
        if not hasattr(self._local, "connection"):
            self._local.connection = self._database.connect(read_only=True)
            self._connections.add(self._local.connection)
        return self._local.connection

    def _leave(self) -> None:
        """Of a connection on which something failed nobody knows what state it is in."""
        if hasattr(self._local, "connection"):
            connection: sqlite3.Connection = self._local.connection
            del self._local.connection
            self._connections.discard(connection)
            with contextlib.suppress(sqlite3.Error):
                connection.close()


def closed(database: Database) -> StoreUnavailable:
    return StoreUnavailable(f"the job store {database.path} is closed")
