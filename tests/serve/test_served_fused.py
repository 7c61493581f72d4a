"""All stages in one replica, two of them, on a real cluster and over HTTP."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import httpx
import numpy as np
import pytest
import ray.serve
from ray.serve.schema import ReplicaState

from benchmarks.tracing import coverage_of, spans_of
from serve.api.schemas import parse_request
from serve.app import build
from serve.cli.drawing import LocalDrawing
from serve.settings.settings import Settings
from tests.cluster import LocalCluster, wait_until
from tests.serve.test_served import pixels, wait_until_ready
from tests.serve.test_traced import Span

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

APP = "fused-test"
URL = "/v1/images/generations"
BODY = {"prompt": "a red circle on a white background", "size": "96x64"}
LONG = {**BODY, "size": "256x256", "num_inference_steps": 60}


@pytest.fixture(scope="module")
def client(
    cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    settings = {
        "stages.layout": "fused",
        "stages.denoiser.num_replicas": "2",
        "stages.safety.classifier": "off",
        "stages.storage.directory": str(tmp_path_factory.mktemp("files")),
    }
    ray.serve.run(build(settings), name=APP, route_prefix="/fused")
    base_url = f"http://127.0.0.1:{cluster.http_port}/fused"
    try:
        with httpx.Client(base_url=base_url, timeout=120) as client:
            wait_until_ready(client)
            yield client
    finally:
        ray.serve.delete(APP)


def running() -> int:
    states = ray.serve.status().applications[APP].deployments["Fused"].replica_states
    return states.get(ReplicaState.RUNNING, 0)


def traced(client: httpx.Client, answer: httpx.Response) -> list[Span]:
    return spans_of(client.get(f"/v1/traces/{answer.headers['x-trace-id']}").json())


def drawn(response: httpx.Response) -> list[np.ndarray]:
    assert response.status_code == 200, response.text
    return [pixels(base64.b64decode(image["b64_json"])) for image in response.json()["data"]]


def assert_alike(left: list[np.ndarray], right: list[np.ndarray]) -> None:
    for here, there in zip(left, right, strict=True):
        difference = np.abs(here - there)
        assert difference.max() <= 1
        assert (difference == 0).mean() >= 0.999


def test_many_at_once_are_the_local_chains(client: httpx.Client) -> None:
    assert set(client.get("/readyz").json()["stages"]) == {"Fused"}
    bodies = [{**BODY, "seed": seed, "n": 1 + seed % 2} for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: client.post(URL, json=body), bodies))
    drawing = LocalDrawing(Settings.load())
    for body, answer in zip(bodies, answers, strict=True):
        local = drawing.draw(drawing.plan(parse_request(body)), lambda _: None)
        assert_alike(drawn(answer), [pixels(image.data) for image in local])


def test_requests_of_a_replica_that_dies_are_drawn_by_the_other(
    client: httpx.Client, cluster: LocalCluster
) -> None:
    bodies = [{**LONG, "seed": seed} for seed in range(4)]
    expected = [drawn(client.post(URL, json=body)) for body in bodies]
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(client.post, URL, json=body) for body in bodies]
        pool.submit(cluster.kill_replica, "Fused", app=APP).result(60)
        answers = [drawn(future.result(120)) for future in futures]
    for here, there in zip(answers, expected, strict=True):
        assert_alike(here, there)


def test_traces_tell_of_every_stage_and_of_the_attempt_that_was_lost(
    client: httpx.Client, cluster: LocalCluster
) -> None:
    lost = 0
    for _ in range(5):  # which replica is killed is not chosen: it may be one without a request
        if not lost:
            lost = lost_attempts(client, cluster)
    assert lost


def lost_attempts(client: httpx.Client, cluster: LocalCluster) -> int:
    """How many attempts of six requests are lost with a replica; looks at all of their traces."""
    wait_until(lambda: running() == 2)
    with ThreadPoolExecutor(6) as pool:
        bodies = [{**LONG, "seed": 9 + seed} for seed in range(6)]
        futures = [pool.submit(client.post, URL, json=body) for body in bodies]
        time.sleep(1.0)
        cluster.kill_replica("Fused", app=APP)
        answers = [future.result(120) for future in futures]
    lost = 0
    for answer in answers:
        spans = traced(client, answer)
        assert coverage_of(spans) >= 0.98
        assert {"encode.run", "denoise.run", "decode.run", "finish.run", "store"} <= {
            span["name"] for span in spans
        }
        attempts = [span for span in spans if span["name"] == "fused"]
        for before, after in pairwise(attempts):
            assert [link["spanId"] for link in after["links"]] == [before["spanId"]]
            assert before["status"]["code"] == 2
            lost += 1
    return lost
