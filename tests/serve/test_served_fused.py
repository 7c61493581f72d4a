"""All stages in one replica, two of them, on a real cluster and over HTTP."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import httpx
import numpy as np
import pytest
import ray.serve

from benchmarks.tracing import coverage_of, spans_of
from serve.api.schemas import parse_request
from serve.app import build
from serve.config import Settings
from serve.drawing import LocalDrawing
from tests.cluster import LocalCluster
from tests.serve.test_served import pixels, wait_until_ready

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
    with ThreadPoolExecutor(4) as pool:
        bodies = [{**LONG, "seed": 9 + seed} for seed in range(4)]
        futures = [pool.submit(client.post, URL, json=body) for body in bodies]
        pool.submit(cluster.kill_replica, "Fused", app=APP).result(60)
        ids = [future.result(120).headers["x-trace-id"] for future in futures]
    links = 0
    for trace_id in ids:
        spans = spans_of(client.get(f"/v1/traces/{trace_id}").json())
        assert coverage_of(spans) >= 0.98
        assert {"encode.run", "denoise.run", "decode.run", "finish.run", "store"} <= {
            span["name"] for span in spans
        }
        attempts = [span for span in spans if span["name"] == "fused"]
        for before, after in pairwise(attempts):
            assert [link["spanId"] for link in after["links"]] == [before["spanId"]]
            assert before["status"]["code"] == 2
            links += 1
    assert links, "nobody was on the replica that was killed"
