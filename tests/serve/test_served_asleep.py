"""The whole product with all stages asleep: woken at once, and told so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import ray.serve
from ray.serve.schema import ReplicaState

from serve.app import build
from tests.cluster import LocalCluster, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

APP = "asleep-test"
BODY = {"prompt": "a red circle", "n": 2}
STAGES = {"TextEncoder", "Denoiser", "VaeDecoder", "SafetyClassifier", "Finisher"}
CONFIGURED_S = 14.0
"""Longer than the deadline below, and not what a start really takes."""


@pytest.fixture(scope="module")
def client(
    cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A client of the application with the carried model, whose stages all sleep."""
    scaling = {"min_replicas": 0, "start_up_s": CONFIGURED_S}
    keys = ("text_encoder", "denoiser", "vae_decoder", "safety", "finisher")
    stages: dict[str, Any] = {key: {"autoscaling": scaling} for key in keys}
    stages["denoiser"]["calibration_s"] = 0.1
    stages["storage"] = {"directory": str(tmp_path_factory.mktemp("files"))}
    ray.serve.run(build({"stages": stages}), name=APP, route_prefix="/asleep")
    base_url = f"http://127.0.0.1:{cluster.http_port}/asleep/v1/images"
    try:
        with httpx.Client(base_url=base_url, timeout=120) as client:
            yield client
    finally:
        ray.serve.delete(APP)


def asked_for() -> set[str]:
    """The stages that Serve has started a replica of, or is starting one."""
    stages = ray.serve.status().applications[APP].deployments
    return {
        name
        for name in STAGES
        if stages[name].replica_states.keys() & {ReplicaState.STARTING, ReplicaState.RUNNING}
    }


def preflight(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = client.post("/preflight", json={**BODY, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_one_request_wakes_all_stages_and_is_told_of_it_and_the_next_is_not(
    client: httpx.Client,
) -> None:
    wait_until(lambda: set(preflight(client)["asleep"]) == STAGES)
    before = preflight(client, deadline_ms=1000)
    assert before["cold_start_ms"] == CONFIGURED_S * 1000
    assert (before["eta_ms"], before["deadline_can_be_met"]) == (None, None)
    assert asked_for() == set()

    # Refused before it has reached any stage: whatever starts now, it has woken.
    refused = client.post("/generations", json={**BODY, "deadline_ms": 1000})
    assert refused.status_code == 429, refused.text
    assert refused.json()["error"]["code"] == "deadline_unreachable"
    assert refused.json()["error"]["earliest_deadline_ms"] > CONFIGURED_S * 1000 - 1000
    assert int(refused.headers["retry-after-ms"]) > 1000
    wait_until(lambda: asked_for() == STAGES)

    first = client.post("/generations", json=BODY)
    assert first.status_code == 200, first.text
    (warning,) = [text for text in first.json()["warnings"] if text.startswith("cold start: ")]
    assert "slept" in warning
    assert "cold_start;dur=" in first.headers["server-timing"]

    second = client.post("/generations", json=BODY)
    assert not [text for text in second.json()["warnings"] if "cold start" in text]
    assert "cold_start" not in second.headers["server-timing"]
    wait_until(lambda: preflight(client)["eta_ms"] is not None)  # the denoiser's first report
    awake = preflight(client, deadline_ms=60_000)
    assert (awake["asleep"], awake["cold_start_ms"]) == ([], 0)
    assert awake["deadline_can_be_met"]
