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
from serve.cli.drawing import LocalDrawing
from serve.settings.settings import Settings
from tests.cluster import PATIENCE_S, LocalCluster, kill_busiest
from tests.serve.test_served import pixels, wait_until_ready
from tests.serve.test_traced import Span

pytestmark = pytest.mark.cluster

APP = "fused-test"
URL = "/v1/images/generations"
BODY = {"prompt": "a red circle on a white background", "size": "96x64"}
BODIES = [{**BODY, "size": "256x256", "num_inference_steps": 50, "seed": seed} for seed in range(4)]
AMPLE_S = 0.3
"""Work of a replica that is surely not done a few milliseconds later."""


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
        with httpx.Client(base_url=base_url, timeout=PATIENCE_S) as client:
            wait_until_ready(client)
            yield client
    finally:
        ray.serve.delete(APP)


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


def test_a_receipt_is_of_both_replicas(client: httpx.Client) -> None:
    answer = client.post(URL, json={**BODY, "seed": 3})
    file = base64.b64decode(answer.json()["data"][0]["b64_json"])
    read = client.post("/v1/receipts/read", files={"file": ("a.png", file, "image/png")})
    assert read.json()["differences"] == []
    drawn_again = client.post(URL, json=read.json()["request"]).json()["data"][0]
    assert base64.b64decode(drawn_again["b64_json"]) == file


@pytest.fixture(scope="module")
def disturbed(client: httpx.Client) -> list[httpx.Response]:
    """The answers to `BODIES`, whose replica dies under some of them."""
    with ThreadPoolExecutor(len(BODIES)) as pool:
        futures = [pool.submit(client.post, URL, json=body) for body in BODIES]
        kill_busiest(APP, least_s=AMPLE_S)
        return [future.result() for future in futures]


def test_requests_of_a_replica_that_dies_are_drawn_by_the_other(
    client: httpx.Client, disturbed: list[httpx.Response]
) -> None:
    for body, answer in zip(BODIES, disturbed, strict=True):
        assert_alike(drawn(answer), drawn(client.post(URL, json=body)))


def test_traces_tell_of_every_stage_and_of_the_attempt_that_was_lost(
    client: httpx.Client, disturbed: list[httpx.Response]
) -> None:
    lost = 0
    for answer in disturbed:
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
    assert lost
