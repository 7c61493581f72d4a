"""What stored jobs cost: submits to SQLite and Redis, and previews on a saturated server.

    python -m benchmarks.jobs [--quick] [--save]

Submits are those of the stores themselves, each on disk before it counts, by 1 and by 16 callers at
once, round after round, the stores in turn; Redis runs with `appendfsync always`, and is left out
where there is no `redis-server`. The cost of previews is the share of images per second that a
saturated server loses when every client watches: streams with and without `partial_images` in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from statistics import median

import httpx

from benchmarks.report import device_name, print_json, print_table, save_json, spread
from benchmarks.servers import start_sluice
from serve.jobs.job import Job, new_job_id
from serve.jobs.store.job_store import Bounds, JobStore
from serve.jobs.store.open_store import Store, open_job_store

_BOUNDS = Bounds(waiting_s=1e12, waiting_s_per_tenant=1e12)
_CALLERS = (1, 16)
_CLIENTS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sluice-jobs-") as folder:
        submits = asyncio.run(_submits(Path(folder), rounds=3 if options.quick else 9))
        previews = _previews(Path(folder), rounds=3 if options.quick else 8)
    values = {**submits, **previews}
    if options.save:
        print(f"saved {save_json('jobs', values, device=device_name())}")
    print_json(values)


async def _submits(folder: Path, *, rounds: int, each: int = 200) -> dict[str, object]:
    rates: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
    latencies: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
    async with _stores(folder) as stores:
        for store in stores.values():
            await _submit(store, 20, 1)
        for _ in range(rounds):
            for name, store in stores.items():
                for callers in _CALLERS:
                    began = time.perf_counter()
                    latencies[name, callers] += await _submit(store, each, callers)
                    rates[name, callers].append(each / (time.perf_counter() - began))
    print_table(
        f"submits, {rounds} rounds of {each}",
        ["store", "callers", "a second", "latency, ms"],
        [
            (name, callers, spread(found), spread([1000 * s for s in latencies[name, callers]]))
            for (name, callers), found in rates.items()
        ],
    )
    many = _CALLERS[-1]
    values: dict[str, object] = {}
    for name in ("sqlite", "redis"):
        found = rates.get((name, many))
        values[f"{name}_submits_per_s"] = None if found is None else round(median(found))
    for name in stores:
        values[f"{name}_submit_ms"] = round(1000 * median(latencies[name, 1]), 2)
    return values


async def _submit(store: JobStore, jobs: int, callers: int) -> list[float]:
    """Seconds of each of so many submits."""
    left = iter(range(jobs))
    seconds: list[float] = []

    async def caller() -> None:
        for _ in left:
            began = time.perf_counter()
            await store.submit(_job(), _BOUNDS)
            seconds.append(time.perf_counter() - began)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return seconds


def _job() -> Job:
    return Job(
        id=new_job_id(),
        tenant="benchmark",
        model="sluice-shapes",
        request={"prompt": "a red circle on a white background", "seed": 1, "n": 1},
        body_sha256="0" * 64,
        created_at=time.time(),
        work_s=1.0,
    )


@contextlib.asynccontextmanager
async def _stores(folder: Path) -> AsyncGenerator[dict[str, Store]]:
    with contextlib.ExitStack() as servers:
        found = {"sqlite": open_job_store(str(folder / "jobs.sqlite3"), ttl_s=3600.0)}
        if shutil.which("redis-server"):
            url = servers.enter_context(_redis(folder))
            found["redis"] = open_job_store(url, ttl_s=3600.0)
        try:
            for store in found.values():
                await store.open()
            yield found
        finally:
            for store in found.values():
                await store.close()


@contextlib.contextmanager
def _redis(folder: Path) -> Generator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [
            *("redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)),
            *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        while not _listens(port):
            if server.poll() is not None:
                raise RuntimeError("redis-server has ended")
            time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _previews(folder: Path, *, rounds: int, seconds: float = 8.0) -> dict[str, object]:
    server = start_sluice({"page.enabled": "false"}, log=folder / "server.log")
    try:
        asyncio.run(_rate(server.url, partial_images=3, seconds=seconds))
        without: list[float] = []
        watched: list[float] = []
        for _ in range(rounds):
            without.append(asyncio.run(_rate(server.url, partial_images=0, seconds=seconds)))
            watched.append(asyncio.run(_rate(server.url, partial_images=3, seconds=seconds)))
    finally:
        server.stop()
    costs = [1 - there / here for here, there in zip(without, watched, strict=True)]
    print_table(
        f"{_CLIENTS} clients, {rounds} alternating rounds of {seconds:g} s",
        ["", "images a second"],
        [("streams without previews", spread(without)), ("with three each", spread(watched))],
    )
    print(f"share that previews cost: {spread(costs)}")
    found = spread(costs)
    return {
        "preview_cost": round(found.median, 3),
        "preview_cost_low": round(found.low, 3),
        "preview_cost_high": round(found.high, 3),
    }


async def _rate(url: str, *, partial_images: int, seconds: float) -> float:
    """Images a second of clients that ask again as soon as they are answered."""
    done = 0
    began = time.perf_counter()

    async def client(http: httpx.AsyncClient, number: int) -> None:
        nonlocal done
        seed = 1000 * number
        while time.perf_counter() - began < seconds:
            seed += 1
            body = {
                "prompt": "a red circle on a white background",
                "num_inference_steps": 20,
                "seed": seed,
                "stream": True,
                "partial_images": partial_images,
            }
            async with http.stream("POST", "/v1/images/generations", json=body) as answer:
                answer.raise_for_status()
                text = (await answer.aread()).decode()
            done += text.count("event: image_generation.completed")

    async with httpx.AsyncClient(base_url=url, timeout=120.0) as http:
        await asyncio.gather(*(client(http, number) for number in range(_CLIENTS)))
    return done / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
