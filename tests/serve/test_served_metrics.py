"""The whole product under a mixed load: every metric is exported, with values that make sense."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray.serve

from deployments.metrics import declared as metrics
from deployments.metrics.instruments import Metric
from serve.app import build
from serve.settings.settings import Limits, Settings
from tests.cluster import (
    PATIENCE_S,
    LocalCluster,
    ongoing,
    paused,
    replica_processes,
    wait_until,
)
from tests.serve.leaving import leaving_client
from tests.serve.monitoring import exported_names
from tests.serve.ray_metrics import RAY_METRICS
from tests.serve.scraping import Sample, scrape, total

pytestmark = [pytest.mark.cluster, pytest.mark.long]

APP = "metrics-test"
PROMPT = "a red circle on a white background"
LIMITS = {"max_side": 512, "max_pixels": 512 * 512, "max_queued_images_per_tenant": 2}
ROOM = 800_000
"""Bytes of files: more than a large image can have."""
LARGE = {"size": "512x512", "num_inference_steps": 60}
SHORT = {"prompt": PROMPT, "num_inference_steps": 4}

NOT_HERE: dict[Metric, str] = {
    metrics.STAGE_FAILURES: "nothing fails: tests/deployments/lifecycle/test_boundary.py",
    metrics.MOVED_IMAGES: "no denoiser goes away: tests/deployments/graph/test_attempts.py",
    metrics.SHED_IMAGES: "there is one denoiser: tests/deployments/routing/test_balance.py",
}
"""What does not occur in this load, and where it is tested."""

NEEDS_MORE = {"ray_serve_health_check_failures_total": "a replica that is sick"}
"""What is exported only after something that this load need not have."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which files are stored."""
    return tmp_path_factory.mktemp("stored") / "files"


@pytest.fixture(scope="module")
def client(cluster: LocalCluster, files: Path) -> Iterator[httpx.Client]:
    """A client of the carried model, whose finisher sleeps at first, with little room for all."""
    largest = Limits(**LIMITS).largest_tokens(Settings.load().model_spec())
    settings: dict[str, Any] = {
        "limits": LIMITS,
        "result_cache": {"max_bytes": 2**20},
        "stages": {
            # One large image fills a tick, so that a second one must wait or take its place.
            "denoiser": {
                "max_tokens_per_tick": largest,
                "calibration_s": 0.5,
                "checkpoint_every": 1,
            },
            "finisher": {"autoscaling": {"min_replicas": 0}},
            "storage": {"directory": str(files), "max_bytes": ROOM},
        },
    }
    ray.serve.run(build(settings), name=APP, route_prefix="/metrics-test")
    base_url = f"http://127.0.0.1:{cluster.http_port}/metrics-test/v1/"
    try:
        with httpx.Client(base_url=base_url, timeout=PATIENCE_S) as client:
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
def samples(client: httpx.Client, cluster: LocalCluster, files: Path) -> list[Sample]:
    """What is exported after one of everything, once all processes have told of the last."""
    wait_until(lambda: preflight(client)["asleep"] == ["Finisher"])
    first = draw(client, n=2, seed=7, user="anna", deadline_ms=120_000)  # waits for the finisher
    url = httpx.URL(first["data"][0]["url"])
    assert client.get(f"files/{url.path.rsplit('/', 1)[-1]}").status_code == 200
    draw(client, n=2, seed=7, user="anna")  # kept
    draw(client, 400, prompt="a lot of gore")
    draw(client, 429, **LARGE, deadline_ms=20)
    wait_until(lambda: preflight(client)["eta_ms"] is not None)
    _lose(client, cluster)  # first: with a process goes what it has not told yet
    draw(client, quality="low", num_inference_steps=None)
    _cut(client)
    _share(client)
    _crowd(client)
    _fill(client)
    _lack_a_folder(client, files)
    draw(client, user="last")
    expected = {
        name
        for metric in metrics.METRICS
        if metric not in NOT_HERE
        for name in exported_names(metric)
    }
    exported: list[Sample] = []

    missing: set[str] = set()

    def is_complete() -> bool:
        exported[:] = scrape()
        missing.clear()
        missing.update(expected - {sample.name for sample in of_ours(exported)})
        for metric in (metrics.IMAGES, metrics.DEVICE_SECONDS):
            if not total(exported, metric.exposed, tenant="last"):
                missing.add(f"{metric.name} of the last request")
        if sum_of(exported, metrics.CLASSIFIED_IMAGES) < sum_of(
            exported, metrics.IMAGES, source="drawn"
        ):
            missing.add("the last image that was classified")
        return not missing

    try:
        wait_until(is_complete)
    except AssertionError:
        pytest.fail(f"not exported: {missing}")
    return exported


def _cut(client: httpx.Client) -> None:
    """A request that is on time with fewer steps only; what a step takes is an estimate."""
    body: dict[str, Any] = {**SHORT, "size": "256x256", "num_inference_steps": 100, "min_steps": 1}

    def is_cut() -> bool:
        said = preflight(client, **body)
        fewest_ms = said["earliest_deadline_ms"]
        for share in (0.05, 0.2, 0.5):
            deadline_ms = round(fewest_ms + share * max(0, said["eta_ms"] - fewest_ms))
            answer = client.post("images/generations", json={**body, "deadline_ms": deadline_ms})
            if answer.status_code == 200 and answer.json()["data"][0]["steps"] < 100:
                return True
        return False

    wait_until(is_cut)


def _share(client: httpx.Client) -> None:
    """Two equal requests at once."""
    body = {"seed": 3, "size": "256x256", "num_inference_steps": 60}
    with ThreadPoolExecutor(2) as pool:
        with paused(replica_processes("Denoiser", app=APP)):  # so that both wait for the same image
            drawing = [pool.submit(draw, client, **body) for _ in range(2)]
            wait_until(lambda: ongoing("Ingress", app=APP) == 2)
            preflight(client, **body)  # what comes later is read later
        for each in drawing:
            each.result()


def steps_run() -> int:
    """Steps that the denoiser has run."""
    denoiser = ray.serve.get_deployment_handle("Denoiser", APP)
    return denoiser.stats.remote().result(timeout_s=PATIENCE_S).steps


def _lose(client: httpx.Client, cluster: LocalCluster) -> None:
    """The denoiser dies while it draws."""
    with ThreadPoolExecutor(1) as pool:
        before = steps_run()
        drawing = pool.submit(draw, client, **LARGE)
        wait_until(lambda: steps_run() > before + 5)
        cluster.kill_replica("Denoiser", app=APP)
        drawing.result()


def _crowd(client: httpx.Client) -> None:
    """One tenant has as much as it may, another goes first, and a third leaves."""
    with ThreadPoolExecutor(1) as pool:
        before = steps_run()
        staying = pool.submit(draw, client, **LARGE, n=2, user="cleo")
        wait_until(lambda: steps_run() > before + 2)
        with paused(replica_processes("Denoiser", app=APP)):
            draw(client, 429, user="cleo")
        draw(client, user="dora", size="512x512", priority=10, deadline_ms=60_000)
        staying.result()
    before = steps_run()
    with leaving_client(client.base_url, "/images/generations", {**SHORT, **LARGE, "user": "cleo"}):
        wait_until(lambda: steps_run() > before)


def _fill(client: httpx.Client) -> None:
    """More large files than the folder holds."""
    stored, seed = 0, 0
    while stored < ROOM:
        answer = draw(client, size="512x512", seed=seed, user="ben")
        stored += len(base64.b64decode(answer["data"][0]["b64_json"]))
        seed += 1


def _lack_a_folder(client: httpx.Client, files: Path) -> None:
    """A file that cannot be stored, as something else has the folder's name."""
    aside = files.rename(files.with_name("aside"))
    files.touch()
    (image,) = draw(client, seed=5)["data"]
    assert "url" not in image
    files.unlink()
    aside.rename(files)


def of_ours(samples: list[Sample]) -> list[Sample]:
    """Those of this application, as other tests share the cluster."""
    return [
        sample
        for sample in samples
        if sample.name.startswith("ray_sluice_") and sample.labels.get("application") == APP
    ]


@pytest.mark.parametrize("metric", metrics.METRICS, ids=lambda metric: metric.name)
def test_each_metric_is_exported_by_whom_the_table_says(
    samples: list[Sample], metric: Metric
) -> None:
    found = [sample for sample in of_ours(samples) if sample.name in exported_names(metric)]
    assert bool(found) == (metric not in NOT_HERE)
    for sample in found:
        assert {"replica", *metric.labels} <= set(sample.labels)
        assert all(sample.labels[label] for label in metric.labels), sample
        if metric.where != "stages":
            assert sample.labels["deployment"] == metric.where
        assert sample.value >= 0


def test_what_is_exported_is_declared_and_says_nothing_of_what_was_asked(
    samples: list[Sample],
) -> None:
    declared = {name for metric in metrics.METRICS for name in exported_names(metric)}
    for sample in of_ours(samples):
        assert sample.name in declared
        assert not any("circle" in value or "gore" in value for value in sample.labels.values())
    tenants = {sample.labels["tenant"] for sample in of_ours(samples) if "tenant" in sample.labels}
    assert tenants <= {"anna", "ben", "cleo", "dora", "last", "none"}


def sum_of(samples: list[Sample], metric: Metric, **labels: str) -> float:
    return total(samples, metric.exposed, application=APP, **labels)


def test_the_values_are_those_of_the_load(samples: list[Sample]) -> None:
    assert sum_of(samples, metrics.IMAGES, source="drawn", tenant="anna") == 2
    assert sum_of(samples, metrics.IMAGES, source="hit", tenant="anna") == 2
    assert sum_of(samples, metrics.IMAGES, source="shared") >= 1
    left = ("client_gone", "cancelled")  # who notices first: this server, or Serve's proxy
    assert sum(sum_of(samples, metrics.REQUESTS, outcome=outcome) for outcome in left) == 1
    assert sum_of(samples, metrics.REQUESTS, outcome="content_policy_violation") == 1
    assert sum_of(samples, metrics.SAFETY_REFUSALS, stage="prompt") == 1
    assert sum_of(samples, metrics.ADMISSION_REFUSALS, reason="tenant") == 1
    assert sum_of(samples, metrics.DEADLINES, result="met", kind="asked", tenant="anna") == 1
    assert sum_of(samples, metrics.DEADLINES, result="refused", kind="asked", tenant="none") >= 1
    assert (
        sum_of(samples, metrics.COLD_STARTS)
        == sum_of(samples, metrics.COLD_STARTS, stage="Finisher")
        == 1
    )
    assert sum_of(samples, metrics.LOST_CALLS, stage="Denoiser") >= 1
    assert sum_of(samples, metrics.RESUMED_IMAGES) >= 1
    for reason in ("cancelled", "cut", "skipped"):
        assert sum_of(samples, metrics.SAVED_STEPS, reason=reason) >= 1, reason
    drawn = sum_of(samples, metrics.IMAGES, source="drawn")
    assert sum_of(samples, metrics.CLASSIFIED_IMAGES, verdict="passed") == drawn
    assert 1 <= sum_of(samples, metrics.PROMPTS, result="encoded") < drawn
    stored = sum_of(samples, metrics.STORED_BYTES)
    assert 0 < sum_of(samples, metrics.RETURNED_BYTES, route="files") < stored
    # Of a tick that waited for its turn to be told, all is told at once.
    assert sum_of(samples, metrics.STEPS) >= sum_of(samples, metrics.TICKS) > 100
    assert sum_of(samples, metrics.TOKENS) > 16 * sum_of(samples, metrics.STEPS)
    ticks_s = sum_of(samples, metrics.DEVICE_SECONDS, device="cpu")
    assert 0 < ticks_s <= sum_of(samples, metrics.STAGE_BUSY_SECONDS, stage="Denoiser")
    assert sum_of(samples, metrics.KNEE_SECONDS) > 0
    assert sum_of(samples, metrics.KNEE_TOKENS) > 0
    stages = {s.labels["stage"] for s in of_ours(samples) if "phase" in s.labels}
    assert len(stages) == 5


def test_what_we_use_of_ray_is_there(samples: list[Sample]) -> None:
    assert {sample.name for sample in samples} >= RAY_METRICS - set(NEEDS_MORE)
