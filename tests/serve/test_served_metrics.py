"""The whole product under a mixed load: every metric is exported, with values that make sense."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray.serve

from deployments import metrics
from deployments.instruments import Histogram, Metric
from serve.app import build
from serve.config import Limits, Settings
from tests.cluster import LocalCluster, wait_until
from tests.serve.scraping import Sample, scrape, total

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

APP = "metrics-test"
PROMPT = "a red circle on a white background"
LIMITS = {"max_side": 512, "max_pixels": 512 * 512, "max_queued_images_per_tenant": 2}
LARGE = {
    "size": "512x512",
    "num_inference_steps": 80,
    "negative_prompt": "blur",
    "true_cfg_scale": 2.0,
}
SHORT = {"prompt": PROMPT, "num_inference_steps": 4}

NOT_HERE: dict[Metric, str] = {
    metrics.STAGE_FAILURES: "nothing fails: tests/deployments/test_boundary.py",
    metrics.MOVED_IMAGES: "no denoiser goes away: tests/deployments/test_attempts.py",
    metrics.SHED_IMAGES: "there is one denoiser: tests/deployments/test_balance.py",
}
"""What does not occur in this load, and where it is tested."""

NEEDS_MORE = {
    "ray_node_gpus_utilization": "a GPU",
    "ray_serve_deployment_error_counter_total": "a call that fails",
    "ray_serve_num_http_error_requests_total": "an error of a status that Serve counts",
    "ray_serve_health_check_failures_total": "a replica that is sick",
}
"""Serve's metrics that the dashboard and the rules use and that this load need not have."""


@pytest.fixture(scope="module")
def client(
    cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A client of the carried model, whose finisher sleeps at first, with little room for all."""
    largest = Limits(**LIMITS).largest_tokens(Settings.load().model_spec())
    settings: dict[str, Any] = {
        "limits": LIMITS,
        "result_cache": {"max_bytes": 2**20},
        "stages": {
            # One large image fills a tick, so that a second one must wait or take its place.
            "denoiser": {"max_tokens_per_tick": largest, "calibration_s": 0.5},
            "finisher": {"autoscaling": {"min_replicas": 0}},
            "storage": {"directory": str(tmp_path_factory.mktemp("files")), "max_bytes": 700_000},
        },
    }
    ray.serve.run(build(settings), name=APP, route_prefix="/metrics-test")
    base_url = f"http://127.0.0.1:{cluster.http_port}/metrics-test/v1/"
    try:
        with httpx.Client(base_url=base_url, timeout=120) as client:
            yield client
    finally:
        ray.serve.delete(APP)


def draw(client: httpx.Client, expected: int = 200, **fields: Any) -> dict[str, Any]:
    answer = client.post("images/generations", json={**SHORT, **fields})
    assert answer.status_code == expected, answer.text
    return answer.json()


def preflight(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    return client.post("images/preflight", json={**SHORT, **fields}).json()


@pytest.fixture(scope="module")
def samples(client: httpx.Client, cluster: LocalCluster) -> list[Sample]:
    """What is exported after one of everything."""
    wait_until(lambda: preflight(client)["asleep"] == ["Finisher"])
    first = draw(client, n=2, seed=7, user="anna", deadline_ms=120_000)  # waits for the finisher
    url = httpx.URL(first["data"][0]["url"])
    assert client.get(f"files/{url.path.rsplit('/', 1)[-1]}").status_code == 200
    draw(client, n=2, seed=7, user="anna")  # kept
    draw(client, 400, prompt="a lot of gore")
    draw(client, 429, **LARGE, deadline_ms=20)
    draw(client, quality="low", num_inference_steps=None)
    wait_until(lambda: preflight(client)["eta_ms"] is not None)
    _cut(client)
    _share(client)
    _crowd(client, cluster)
    for seed in range(3):  # large files, of which the folder holds few
        draw(client, size="512x512", seed=seed, user="ben")
    expected = {name for metric in metrics.METRICS if metric not in NOT_HERE for name in of(metric)}
    exported: list[Sample] = []
    import time

    print("load done", time.monotonic())

    def is_complete() -> bool:
        exported[:] = scrape()
        missing = expected - {sample.name for sample in exported}
        print(missing)
        return not missing

    wait_until(is_complete, within_s=60)
    return exported


def of(metric: Metric) -> list[str]:
    if isinstance(metric, Histogram):
        return [f"{metric.exposed}_{part}" for part in ("bucket", "sum", "count")]
    return [metric.exposed]


def _cut(client: httpx.Client) -> None:
    """A request that is on time with fewer steps only."""
    body = {"size": "256x256", "num_inference_steps": 100}
    all_ms = preflight(client, **body)["eta_ms"]
    fewest_ms = preflight(client, **body, min_steps=1)["earliest_deadline_ms"]
    answer = draw(client, **body, min_steps=1, deadline_ms=(all_ms + fewest_ms) // 2)
    assert answer["data"][0]["steps"] < 100


def _share(client: httpx.Client) -> None:
    """Two equal requests at once."""
    body = {"seed": 3, "size": "256x256", "num_inference_steps": 60}
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: draw(client, **body), range(2)))


def _crowd(client: httpx.Client, cluster: LocalCluster) -> None:
    """One tenant has as much as it may; another goes first; its denoiser dies; and it leaves."""
    with ThreadPoolExecutor(1) as pool:
        staying = pool.submit(draw, client, **LARGE, n=2, user="cleo")
        wait_until(lambda: (preflight(client)["queue_ms"] or 0) > 0)
        draw(client, 429, user="cleo")
        draw(client, user="dora", priority=10, deadline_ms=60_000)
        cluster.kill_replica("Denoiser", app=APP)
        staying.result()
    with pytest.raises(httpx.ReadTimeout):
        client.post("images/generations", json={**SHORT, **LARGE, "user": "cleo"}, timeout=1.0)


def test_dump(samples: list[Sample]) -> None:
    import json

    open("/tmp/w/m_samples.json", "w").write(json.dumps([list(s) for s in samples]))
