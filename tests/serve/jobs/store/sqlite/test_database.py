"""A file that cannot serve is named and left as it is; a disk that fails loses nothing."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from pipelines.errors import ConfigurationError, StoreUnavailable
from serve.jobs.job import JobAction, JobStatus
from serve.jobs.store.job_store import Update
from serve.jobs.store.sqlite import SqliteStore
from serve.jobs.store.sqlite.database import VERSION, Database
from tests.serve.jobs.store.samples import ATELIER, LEASE_S, TTL_S, UNBOUNDED, a_job


def store_at(path: Path, *, busy_timeout_s: float = 0.05) -> SqliteStore:
    return SqliteStore(path, ttl_s=TTL_S, busy_timeout_s=busy_timeout_s)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def contents(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir()}


@pytest.fixture
async def used(tmp_path: Path) -> Path:
    """The file of a store that has been used and closed."""
    store = store_at(tmp_path / "store" / "jobs.sqlite3", busy_timeout_s=5.0)
    await store.open()
    for number in range(50):
        await store.submit(a_job(f"job_{number:02}", request={"prompt": "x" * 500}), UNBOUNDED)
    await store.close()
    return tmp_path / "store" / "jobs.sqlite3"


async def refusal(path: Path) -> str:
    """Why a store is refused, once it is seen that its folder is as it was."""
    before = contents(path.parent)
    store = store_at(path)
    with pytest.raises(ConfigurationError) as refused:
        await store.open()
    await store.close()
    assert contents(path.parent) == before
    assert str(path) in refused.value.message
    return refused.value.message


async def test_the_file_and_its_folder_are_its_users_alone(used: Path) -> None:
    assert mode(used) == 0o600
    assert mode(used.parent) == 0o700
    store = store_at(used)
    await store.open()
    await store.submit(a_job("job_new"), UNBOUNDED)
    modes = {each.name: mode(each) for each in used.parent.iterdir()}
    await store.close()
    assert modes == dict.fromkeys([used.name, f"{used.name}-wal", f"{used.name}-shm"], 0o600)


async def test_a_folder_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    before = mode(tmp_path.parent)
    store = store_at(tmp_path.parent / f"{tmp_path.name}.sqlite3")
    await store.open()
    await store.close()
    assert mode(tmp_path.parent) == before


async def test_a_file_that_is_not_a_database(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    path.write_text("these are my notes, do not touch\n" * 100)
    assert "is not an SQLite database" in await refusal(path)


async def test_another_programs_database(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE contacts (name TEXT)")
    assert "another program's" in await refusal(path)


async def test_a_newer_version(used: Path) -> None:
    with closing(sqlite3.connect(used)) as newer:
        newer.execute(f"PRAGMA user_version = {VERSION + 1}")
    assert f"version {VERSION + 1}, written by a newer Sluice" in await refusal(used)


OLD = """
CREATE TABLE jobs (
  id TEXT PRIMARY KEY, tenant TEXT NOT NULL, status TEXT NOT NULL, priority INTEGER NOT NULL,
  created_at REAL NOT NULL, finished_at REAL, expires_at REAL, images INTEGER NOT NULL,
  work_us INTEGER NOT NULL, num_bytes INTEGER NOT NULL, idempotency_key TEXT, pending_action TEXT,
  last_event INTEGER NOT NULL, holder TEXT, token TEXT, renewals INTEGER NOT NULL DEFAULT 0,
  lease_s REAL NOT NULL DEFAULT 0, document TEXT NOT NULL) STRICT;
CREATE TABLE deliveries (
  id TEXT PRIMARY KEY, job_id TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
  tenant TEXT NOT NULL, url TEXT NOT NULL, created_at REAL NOT NULL, next_at REAL NOT NULL,
  status TEXT NOT NULL, attempts INTEGER NOT NULL, last_error TEXT, last_status INTEGER) STRICT;
CREATE INDEX deliveries_due ON deliveries (next_at) WHERE status = 'waiting';
CREATE INDEX deliveries_of_owner ON deliveries (tenant, created_at, id, status);
CREATE INDEX deliveries_of_job ON deliveries (job_id);
PRAGMA user_version = 1;
"""


async def test_an_older_version_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    store = store_at(path, busy_timeout_s=5.0)
    await store.open()
    await store.submit(a_job("job_1", webhook="https://hooks.test/"), UNBOUNDED)
    await store.ask("job_1", JobAction.CANCEL, 2.0)
    [delivery] = await store.deliveries(ATELIER)
    await store.close()
    with closing(sqlite3.connect(path)) as old:  # as version 1 has written the same
        for table in ("jobs", "deliveries"):
            old.execute(f"ALTER TABLE {table} RENAME TO new_{table}")
        for (name,) in old.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'index' AND name LIKE 'deliveries%'"
        ).fetchall():
            old.execute(f"DROP INDEX {name}")
        old.executescript(OLD)
        for table in ("jobs", "deliveries"):
            names = [name for _, name, *_ in old.execute(f"PRAGMA table_info({table})")]
            columns = ", ".join(names)
            old.execute(f"INSERT INTO {table} SELECT {columns} FROM new_{table}")
        for table in ("events", "parts"):
            old.execute(f"DROP TABLE {table}")
        old.execute("CREATE TABLE events (job_id, number, type, at, data)")
        old.execute("CREATE TABLE parts (job_id, image, data, PRIMARY KEY (job_id, image))")
        for table in ("deliveries", "jobs"):
            old.execute(f"DROP TABLE new_{table}")
        old.commit()
    store = store_at(path, busy_timeout_s=5.0)
    await store.open()
    assert await store.deliveries(ATELIER) == (delivery,)
    await store.delete("job_1")
    due = await store.claim_delivery(at=9.0, lease_s=5.0)
    assert due is not None
    assert due.job.id == "job_1"
    await store.submit(a_job("job_2"), UNBOUNDED)
    assert await store.claim("runner", lease_s=LEASE_S, at=2.0, free=1) is not None
    await store.close()


def truncated(data: bytes) -> bytes:
    return data[: len(data) * 3 // 10]


def without_its_last_page(data: bytes) -> bytes:
    return data[:-4096]


def overwritten(data: bytes) -> bytes:
    """All but the first page."""
    return data[:4096] + b"\xa5" * (len(data) - 4096)


@pytest.mark.parametrize("damage", [truncated, without_its_last_page, overwritten])
async def test_a_damaged_file(used: Path, damage: Callable[[bytes], bytes]) -> None:
    await asyncio.to_thread(lambda: used.write_bytes(damage(used.read_bytes())))
    assert "is damaged" in await refusal(used)


async def test_a_damaged_file_of_a_process_that_crashed(used: Path, tmp_path: Path) -> None:
    """What its log holds is not written into it."""
    store = store_at(used)
    await store.open()
    await store.submit(a_job("job_new"), UNBOUNDED)
    crashed = tmp_path / "crashed"
    await asyncio.to_thread(shutil.copytree, used.parent, crashed)
    await store.close()
    path = crashed / used.name
    await asyncio.to_thread(lambda: path.write_bytes(overwritten(path.read_bytes())))
    before = contents(crashed)
    with pytest.raises(ConfigurationError, match="is damaged"):
        await store_at(path).open()
    after = contents(crashed)
    for name in (path.name, f"{path.name}-wal"):
        assert after[name] == before[name]


async def test_a_locked_file(used: Path) -> None:
    with locked(used):
        assert "is locked by another program" in await refusal(used)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program writes, and does not end."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = store_at(tmp_path / "file" / "jobs.sqlite3")
    with pytest.raises(ConfigurationError, match=str(tmp_path / "file" / "jobs.sqlite3")):
        await store.open()
    with pytest.raises(ConfigurationError, match=r"/proc/sluice/jobs\.sqlite3 cannot be made"):
        await store_at(Path("/proc/sluice/jobs.sqlite3")).open()


async def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not a file"):
        await store_at(tmp_path).open()


async def test_an_empty_file_is_a_new_store(tmp_path: Path) -> None:
    (tmp_path / "jobs.sqlite3").write_bytes(b"")
    store = store_at(tmp_path / "jobs.sqlite3")
    await store.open()
    assert await store.get("job_1") is None
    await store.close()


async def test_a_store_that_is_not_open_says_so(used: Path) -> None:
    store = store_at(used)
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.get("job_1")
    await store.open()
    await store.close()
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.submit(a_job("job_1"), UNBOUNDED)


async def test_a_lock_that_lasts_too_long_and_then_goes(used: Path) -> None:
    store = store_at(used)
    await store.open()
    with locked(used):
        with pytest.raises(StoreUnavailable, match="locked"):
            await store.submit(a_job("job_new"), UNBOUNDED)
        assert await store.get("job_00") is not None
        assert await store.get("job_new") is None
    assert (await store.submit(a_job("job_new"), UNBOUNDED)).job.id == "job_new"
    await store.close()


class SmallDisk(Database):
    """A disk that is full, for as long as a test says so."""

    writing: sqlite3.Connection

    def prepare(self) -> sqlite3.Connection:
        self.writing = super().prepare()
        return self.writing

    def fill(self) -> None:
        (pages,) = self.writing.execute("PRAGMA page_count").fetchone()
        self.writing.execute(f"PRAGMA max_page_count = {pages + 2}")

    def empty(self) -> None:
        self.writing.execute("PRAGMA max_page_count = 100000")


@pytest.fixture
async def full(
    used: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[SqliteStore, SmallDisk]]:
    disk = SmallDisk(used, busy_timeout_s=5.0)
    monkeypatch.setattr("serve.jobs.store.sqlite.store.Database", lambda *_, **__: disk)
    store = store_at(used)
    await store.open()
    yield store, disk
    await store.close()


async def test_a_full_disk_loses_nothing_that_was_accepted(
    full: tuple[SqliteStore, SmallDisk],
) -> None:
    store, disk = full
    lease = await store.claim("runner", lease_s=LEASE_S, at=2.0, free=1)
    assert lease is not None
    disk.fill()
    accepted: list[str] = []

    async def submit_until_full() -> None:
        for number in range(1000):
            await store.submit(a_job(f"job_{number}_", request={"p": "x" * 3000}), UNBOUNDED)
            accepted.append(f"job_{number}_")

    with pytest.raises(StoreUnavailable, match="full"):
        await submit_until_full()
    with pytest.raises(StoreUnavailable, match="full"):
        await store.update(
            lease.job.id, lease.token, Update(at=3.0, changes={}, parts={0: b"x" * 100_000})
        )
    assert await store.get(lease.job.id) == lease.job
    assert await store.renew(lease.job.id, lease.token, lease_s=LEASE_S) is None
    disk.empty()
    assert (await store.waiting()).jobs == 49 + len(accepted)
    await store.submit(a_job("job_new"), UNBOUNDED)
    done = Update(at=4.0, changes={"status": JobStatus.SUCCEEDED}, parts={0: b"x" * 100_000})
    assert (await store.update(lease.job.id, lease.token, done)).last_event == 3
