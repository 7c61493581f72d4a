"""Jobs of a real cluster in a real Redis: ingresses are killed, and Redis itself."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import ray.serve

from serve.app import build
from serve.jobs.transitions import FINAL_EVENTS
from tests.cluster import (
    PATIENCE_S,
    LocalCluster,
    is_whole,
    ongoing_of_each,
    replica_processes,
    wait_until,
)
from tests.serve.job_client import (
    BODY,
    IMAGES,
    JOBS,
    LONG,
    MINE,
    Event,
    events,
    files,
    get,
    quiet_files,
    submit,
)
from tests.serve.jobs.store.redis_server import RedisServer, needs_redis, running_redis

pytestmark = [pytest.mark.cluster, pytest.mark.long, needs_redis]

APP = "jobs-redis-test"
ONE = {**LONG, "n": 1}


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture(scope="module")
def client(
    cluster: LocalCluster, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A client of an application with two ingress replicas."""
    settings = {
        "ingress": {"num_replicas": 2},
        "stages": {
            "denoiser": {"calibration_s": 0.5, "checkpoint_every": 2},
            "storage": {"directory": str(tmp_path_factory.mktemp("files"))},
        },
        "jobs": {"store": redis.url},
    }
    ray.serve.run(build(settings), name=APP, route_prefix="/jobs-redis-test")
    base_url = f"http://127.0.0.1:{cluster.http_port}/jobs-redis-test"
    try:
        with httpx.Client(base_url=base_url, timeout=PATIENCE_S) as client:
            yield client
    finally:
        ray.serve.delete(APP)


class Follower:
    """Follows a job to its end; where its stream breaks off, the next goes on after the last event
    that came. `streams` are those that brought any."""

    def __init__(self, client: httpx.Client, job_id: str) -> None:
        self.told: list[Event] = []
        self.streams = 0
        self._client = client
        self._job_id = job_id

    @property
    def step(self) -> int:
        """The latest that it was told of."""
        steps = (each.data["progress"]["step"] for each in self.told if "progress" in each.data)
        return max(steps, default=0)

    @property
    def is_over(self) -> bool:
        return bool(self.told) and self.told[-1].data["type"] in FINAL_EVENTS

    def follow(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not self.is_over:
            try:
                self._follow_once()
            except httpx.HTTPError:
                assert time.monotonic() < deadline, "nobody answers"
                time.sleep(0.1)  # whoever died may be the only one who is known

    def _follow_once(self) -> None:
        after = self.told[-1].id if self.told else 0
        assert after is not None
        for number, event in enumerate(events(self._client, self._job_id, after=after)):
            self.streams += number == 0
            self.told.append(event)

    def check(self) -> None:
        """It was told of everything, and of nothing twice."""
        assert [event.id for event in self.told] == list(range(1, len(self.told) + 1))
        assert self.told[-1].data["type"] == "job.succeeded"


@contextmanager
def following(client: httpx.Client, job_ids: Sequence[str]) -> Iterator[list[Follower]]:
    """Followers of these jobs, the first of them through each ingress; they are over after the
    body."""
    with ThreadPoolExecutor(16) as pool:
        followers: list[Follower] = []
        running = []
        while len(followers) < len(job_ids) or not all(ongoing_of_each("Ingress", app=APP)):
            assert len(followers) < 16
            followers.append(Follower(client, job_ids[len(followers) % len(job_ids)]))
            running.append(pool.submit(followers[-1].follow))
            wait_until(lambda: bool(followers[-1].told) or running[-1].done())
        yield followers
        for each in running:
            each.result()


def check_jobs(client: httpx.Client, bodies: dict[str, dict[str, Any]]) -> None:
    """All of these jobs are what they had been without trouble."""
    for job_id, body in bodies.items():
        job = get(client, job_id)
        assert job["status"] == "succeeded"
        assert files(client, job) == quiet_files(client, body)


def test_killed_ingresses_lose_no_job_and_no_event(client: httpx.Client) -> None:
    bodies = {submit(client, body): body for body in ({**ONE, "seed": seed} for seed in (1, 2))}
    with following(client, list(bodies)) as followers:
        wait_until(lambda: any(each.step > 10 for each in followers))
        first, second = replica_processes("Ingress", app=APP)
        first.kill()
        wait_until(lambda: any(each.streams > 1 for each in followers))
        second.kill()
    for each in followers:
        each.check()
    assert any(get(client, job_id)["attempts"] > 1 for job_id in bodies)
    check_jobs(client, bodies)
    wait_until(lambda: is_whole(APP))


def test_a_redis_that_is_killed_loses_nothing(client: httpx.Client, redis: RedisServer) -> None:
    bodies = {submit(client, body): body for body in ({**ONE, "seed": seed} for seed in (3, 4))}
    before = {job["id"] for job in client.get(JOBS, params=MINE).json()["data"]}
    late = {**BODY, "seed": 6}
    key = {"idempotency-key": "sent until it is taken"}
    with ThreadPoolExecutor(1) as pool, following(client, list(bodies)) as followers:
        drawing = pool.submit(quiet_files, client, {**ONE, "seed": 7})
        wait_until(lambda: any(each.step > 10 for each in followers))
        redis.kill()
        try:
            for refused in (
                client.post(JOBS, json=late, headers=key),
                client.get(f"{JOBS}/{next(iter(bodies))}", params=MINE),
                client.get(JOBS, params=MINE),
            ):
                assert refused.status_code == 503
                assert refused.json()["error"]["code"] == "store_unavailable"
                assert int(refused.headers["retry-after-ms"]) > 0
            assert client.post(IMAGES, json=BODY).status_code == 200
            assert drawing.result()
        finally:
            redis.start()
    for each in followers:
        each.check()
        assert each.streams == 1  # they have waited
    taken = client.post(JOBS, json=late, headers=key)
    assert taken.status_code == 202
    job_id = taken.json()["id"]
    *_, last = events(client, job_id)
    assert last.data["type"] == "job.succeeded"
    check_jobs(client, {**bodies, job_id: late})
    assert {job["id"] for job in client.get(JOBS, params=MINE).json()["data"]} == {*before, job_id}
