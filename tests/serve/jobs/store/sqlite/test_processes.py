"""Several processes with one file, of which some are killed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serve.jobs.job import JobStatus
from serve.jobs.store.job_store import Update
from serve.jobs.store.sqlite import SqliteStore
from tests.serve.jobs.store.samples import ATELIER, LEASE_S, TTL_S, UNBOUNDED, a_job

PROCESSES = 3
JOBS = 20


async def submit_all(path: Path, name: str) -> None:
    """Submit jobs for ever, and print the id of each that was accepted."""
    store = SqliteStore(path, ttl_s=TTL_S)
    await store.open()
    number = 0
    while True:
        ids = [f"job_{name}_{number + more}" for more in range(4)]
        await asyncio.gather(*(store.submit(a_job(job_id), UNBOUNDED) for job_id in ids))
        print("\n".join(ids), flush=True)
        number += 4


async def run_all(path: Path, name: str) -> None:
    """Run jobs until none is left, and print the id of each that was finished."""
    store = SqliteStore(path, ttl_s=TTL_S)
    await store.open()
    while lease := await store.claim(name, lease_s=LEASE_S, at=2.0, free=1):
        done = Update(at=3.0, changes={"status": JobStatus.SUCCEEDED})
        await store.update(lease.job.id, lease.token, done)
        print(lease.job.id, flush=True)
    await store.close()


@contextmanager
def process(what: str, path: Path, name: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", __name__, what, str(path), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


def lines_of(running: subprocess.Popen[str]) -> Iterator[str]:
    assert running.stdout is not None
    for line in running.stdout:
        yield line.strip()


async def test_processes_share_a_file_and_no_job(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    store = SqliteStore(path, ttl_s=TTL_S)
    await store.open()
    for number in range(JOBS):
        await store.submit(a_job(f"job_{number}"), UNBOUNDED)
    done: list[str] = []
    with process("run_all", path, "a") as a, process("run_all", path, "b") as b:
        for running in (a, b):
            done += await asyncio.to_thread(lambda running=running: list(lines_of(running)))
            assert running.wait() == 0
    assert sorted(done) == sorted(f"job_{number}" for number in range(JOBS))
    page = await store.page(ATELIER, limit=2 * JOBS)
    assert {(job.status, job.attempts, job.last_event) for job in page} == {("succeeded", 1, 3)}
    await store.close()


@pytest.mark.parametrize("acknowledged", [1, 30])
async def test_a_killed_process_has_lost_no_job_that_it_accepted(
    tmp_path: Path, acknowledged: int
) -> None:
    """They make the file together, too, and each is killed in the middle of its writing."""
    path = tmp_path / "jobs.sqlite3"
    accepted: list[str] = []
    with (
        process("submit_all", path, "a") as a,
        process("submit_all", path, "b") as b,
        process("submit_all", path, "c") as c,
    ):
        for running in (a, b, c):
            lines = lines_of(running)
            accepted += [next(lines) for _ in range(acknowledged)]
            running.kill()
            accepted += [line for line in lines if line]
    store = SqliteStore(path, ttl_s=TTL_S)
    await store.open()
    waiting = await store.waiting()
    assert len(accepted) >= acknowledged * PROCESSES
    for job_id in accepted:
        assert await store.get(job_id) is not None
        assert [event.type for event in await store.events(job_id, after=0)] == ["job.queued"]
    page = await store.page(ATELIER, limit=waiting.jobs + 1)
    assert len(page) == waiting.jobs >= len(accepted)
    await store.close()


if __name__ == "__main__":
    what, path, name = sys.argv[1:]
    asyncio.run({"submit_all": submit_all, "run_all": run_all}[what](Path(path), name))
