"""Jobs on a real cluster: followed, cancelled, and drawn on when the ingress that had them dies."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import httpx
import pytest
import ray.serve

from serve.app import build
from tests.cluster import (
    PATIENCE_S,
    LocalCluster,
    is_whole,
    ongoing_of_each,
    replica_processes,
    wait_until,
)
from tests.replica_logs import ReplicaLogs
from tests.serve.job_client import (
    BODY,
    IMAGES,
    LONG,
    MINE,
    Event,
    events,
    files,
    get,
    quiet_files,
    submit,
)

pytestmark = pytest.mark.cluster

APP = "jobs-test"


@pytest.fixture(scope="module")
def client(
    cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A client of an application with two ingress replicas."""
    settings = {
        "ingress": {"num_replicas": 2},
        "stages": {
            "denoiser": {"calibration_s": 0.5, "checkpoint_every": 2},
            "storage": {"directory": str(tmp_path_factory.mktemp("files"))},
        },
        "jobs": {"store": str(tmp_path_factory.mktemp("jobs") / "jobs.sqlite3")},
    }
    ray.serve.run(build(settings), name=APP, route_prefix="/jobs-test")
    base_url = f"http://127.0.0.1:{cluster.http_port}/jobs-test"
    try:
        with httpx.Client(base_url=base_url, timeout=PATIENCE_S) as client:
            yield client
    finally:
        ray.serve.delete(APP)


def test_a_job_is_followed_to_its_end(client: httpx.Client):
    job_id = submit(client, {**BODY, "n": 2})
    told = list(events(client, job_id))
    assert [event.id for event in told] == list(range(1, len(told) + 1))
    job = told[-1].data["job"]
    assert job["status"] == "succeeded"
    assert job == get(client, job_id)
    assert files(client, job) == quiet_files(client, {**BODY, "n": 2})
    phases = [event.data["progress"]["phase"] for event in told if "progress" in event.data]
    assert phases
    listed = client.get("/v1/jobs", params=MINE).json()["data"]
    assert job_id in [each["id"] for each in listed]


def test_its_trace_is_that_of_its_submission(client: httpx.Client):
    answer = client.post("/v1/jobs", json=BODY)
    list(events(client, answer.json()["id"]))
    trace = client.get(f"/v1/traces/{answer.headers['x-trace-id']}")
    assert trace.status_code == 200
    assert '"denoise.run"' in trace.text
    assert answer.json()["id"] not in trace.text  # who knows it may have the job


def test_refusals_and_cancellations_leave_no_traceback(client: httpx.Client):
    log = ReplicaLogs(APP)
    late = {**LONG, "n": 4, "deadline_ms": 1}
    with ThreadPoolExecutor(6) as pool:
        refused = list(pool.map(lambda _: client.post(IMAGES, json=late).status_code, range(6)))
    assert refused == [429] * 6
    assert client.post(IMAGES, json={**BODY, "model": "other"}).status_code == 404
    assert client.post(IMAGES, json={**BODY, "prompt": "a naked child"}).status_code == 400
    with pytest.raises(httpx.ReadTimeout):
        client.post(IMAGES, json=LONG, timeout=0.5)
    with pytest.raises(httpx.ReadTimeout):
        client.post(IMAGES, json={**LONG, "stream": True, "partial_images": 3}, timeout=0.5)
    job_id = submit(client, LONG)
    next(event for event in events(client, job_id) if event.data["type"] == "job.running")
    client.post(f"/v1/jobs/{job_id}/cancel", params=MINE)
    assert [event.data["type"] for event in events(client, job_id)][-1] == "job.cancelled"
    job_id = submit(client, {**LONG, "deadline_ms": 1})
    assert [event.data["type"] for event in events(client, job_id)][-1] == "job.expired"
    # Whatever they leave behind is found when it is collected, by the requests after them.
    assert client.post(IMAGES, json=BODY).status_code == 200
    said = "".join(log.lines())
    assert "outcome=deadline_unreachable" in said
    for trouble in ("Traceback", "never retrieved", "Unhandled error", "ERROR"):
        assert trouble not in said


def test_cancelled_through_any_replica(client: httpx.Client):
    job_id = submit(client, LONG)
    for event in events(client, job_id):
        if event.data.get("progress", {}).get("step", 0) > 0:
            break
    answer = client.post(f"/v1/jobs/{job_id}/cancel", params=MINE)
    assert answer.status_code == 200
    *_, last = events(client, job_id)
    assert last.data["type"] == "job.cancelled"
    assert last.data["job"]["outputs"] == []
    assert client.delete(f"/v1/jobs/{job_id}", params=MINE).status_code == 204


def test_kept_through_any_replica(client: httpx.Client):
    job_id = submit(client, LONG)
    for event in events(client, job_id):
        if event.data.get("progress", {}).get("step", 0) > 0:
            break
    assert client.post(f"/v1/jobs/{job_id}/keep", params=MINE).status_code == 200
    *_, last = events(client, job_id)
    assert last.data["type"] == "job.succeeded"
    assert all(output["steps"] < 100 for output in last.data["job"]["outputs"])


def test_previews_through_any_replica(client: httpx.Client):
    job_id = submit(client, LONG)
    next(event for event in events(client, job_id) if event.data["type"] == "job.running")
    with ExitStack() as watching:
        watchers: list[Generator[Event]] = []
        # Its runner alone has the job, so that one of two replicas has to ask the other.
        while not watchers or not all(ongoing_of_each("Ingress", app=APP)):
            assert len(watchers) < 8
            watcher = watching.enter_context(closing(events(client, job_id, previews="true")))
            assert next(watcher).data["type"] == "job.queued"
            watchers.append(watcher)
        for watcher in watchers:
            shown = next(event for event in watcher if event.data["type"] == "job.preview")
            assert shown.id is None
            assert b64decode(shown.data["b64"])
        client.post(f"/v1/jobs/{job_id}/cancel", params=MINE)


def test_killed_ingresses_lose_nothing(client: httpx.Client):
    job_id = submit(client, LONG)
    last, step = 0, 0
    for event in events(client, job_id):
        last = event.id or last
        step = event.data.get("progress", {}).get("step", step)
        if step > 20:
            break
    for process in replica_processes("Ingress", app=APP):
        process.kill()
    wait_until(lambda: is_whole(APP))
    told = [event.id for event in events(client, job_id, after=last)]
    assert told == list(range(last + 1, last + 1 + len(told)))
    job = get(client, job_id)
    assert (job["status"], job["attempts"]) == ("succeeded", 2)
    assert files(client, job) == quiet_files(client, LONG)
    runs = [event.data for event in events(client, job_id) if event.data["type"] == "job.running"]
    assert len(runs) == 2
