"""The product on a real cluster, changed in place under clients that ask on."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray.serve
from ray.serve.schema import ReplicaState

from pipelines.engine.observe.stats import EngineStats
from pipelines.errors import ConfigurationError
from tests.cluster import (
    PATIENCE_S,
    LocalCluster,
    is_whole,
    paused,
    replica_processes,
    replicas_in,
    wait_until,
)
from tests.serve.rollout import (
    AMPLE_S,
    APP,
    BALLAST,
    PROMPT,
    SCALED,
    URL,
    Answer,
    ask,
    asking,
    assert_undisturbed,
    change,
    deploy_unchecked,
    is_running,
    logs,
    replicas,
    url_of,
)

pytestmark = pytest.mark.cluster

MOVED = "its denoiser goes away, an image goes on from step"


@pytest.fixture
def client(rollout_client: httpx.Client) -> httpx.Client:
    return rollout_client


@pytest.fixture
def file(rollout_file: Path) -> Path:
    return rollout_file


def refusal(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 400, response.text
    return response.json()["error"]


def engines() -> list[EngineStats]:
    """Of all denoisers."""
    denoisers: Any = ray.serve.get_deployment_handle("Denoiser", APP)
    return denoisers.broadcast("stats").results(timeout_s=PATIENCE_S)


def policies() -> set[str]:
    return {engine.policy for engine in engines()}


def target_waits() -> list[float]:
    """What each finisher tells the controller."""
    handle: Any = ray.serve.get_deployment_handle("Finisher", APP)
    told = handle.broadcast("record_autoscaling_stats").results()
    return [each["target_wait_s"] for each in told]


def test_user_config_changes_limits_threshold_and_policy_in_place(
    client: httpx.Client, file: Path
) -> None:
    before = replicas()
    three = {"prompt": PROMPT, "n": 3}
    assert client.post(URL, json=three).status_code == 200
    assert policies() == {"fifo"}
    change(
        file,
        {"name": "Ingress", "user_config": {"limits": {"max_images": 2}}},
        {"name": "SafetyClassifier", "user_config": {"threshold": 0}},
        {"name": "Denoiser", "user_config": {"policy": "srpt"}},
    )
    wait_until(lambda: client.post(URL, json=three).status_code == 400)
    assert refusal(client.post(URL, json=three))["param"] == "n"
    wait_until(lambda: client.post(URL, json={"prompt": PROMPT}).status_code == 400)
    refused = refusal(client.post(URL, json={"prompt": PROMPT}))
    assert (refused["code"], refused["threshold"]) == ("content_policy_violation", 0)
    wait_until(lambda: policies() == {"srpt"})
    change(file)
    wait_until(lambda: client.post(URL, json=three).status_code == 200)
    wait_until(lambda: policies() == {"fifo"})
    assert replicas() == before


def test_a_mistake_in_user_config_changes_nothing_and_is_logged(
    client: httpx.Client, file: Path
) -> None:
    before = replicas()
    mistakes = (
        {"name": "Denoiser", "user_config": {"policy": "lifo"}},
        {"name": "Ingress", "user_config": {"limits": {"max_images": 1}, "deadline": {}}},
    )
    with pytest.raises(ConfigurationError, match=r"Denoiser: user_config\.policy"):
        change(file, *mistakes)  # as `sluice check` says
    deploy_unchecked(file)
    wait_until(lambda: "nothing was changed: user_config.policy" in logs("Denoiser"))
    wait_until(lambda: "nothing was changed: user_config.deadline" in logs("Ingress"))
    wait_until(is_running)
    assert client.post(URL, json={"prompt": PROMPT, "n": 2}).status_code == 200
    assert policies() == {"fifo"}
    assert replicas() == before


def test_bounds_and_target_wait_of_autoscaling_change_in_place(
    client: httpx.Client, file: Path
) -> None:
    before = replicas()
    two = SCALED.serve_config() | {"min_replicas": 2}
    waits = {"autoscaling": {"target_wait_s": 0.5}}
    change(file, finisher={"autoscaling_config": two, "user_config": waits})
    wait_until(lambda: replicas_in(ReplicaState.RUNNING, "Finisher", app=APP) == 2)
    wait_until(lambda: target_waits() == [0.5, 0.5])
    assert replicas() > before
    change(file)
    wait_until(lambda: set(target_waits()) == {SCALED.target_wait_s})
    assert replicas() >= before


def test_a_denoiser_that_is_scaled_down_hands_its_works_over(
    cluster: LocalCluster, client: httpx.Client, file: Path, undisturbed: Mapping[int, Answer]
) -> None:
    change(file, {"name": "Denoiser", "num_replicas": 2})
    wait_until(lambda: is_running() and is_whole(APP))
    moved = logs("Ingress").count(MOVED)
    denoisers = replica_processes("Denoiser", app=APP)
    assert len(denoisers) == 2
    with asking(url_of(cluster)) as answers, ThreadPoolExecutor(len(BALLAST)) as pool:
        held = [pool.submit(ask, client, request) for request in BALLAST]
        # Whichever of them goes: what it has then, it has until it is told to go.
        wait_until(lambda: all(each.queued_s > AMPLE_S for each in engines()))
        with paused(denoisers):
            change(file)
            wait_until(lambda: replicas_in(ReplicaState.STOPPING, "Denoiser", app=APP) == 1)
        wait_until(lambda: len(replicas("Denoiser")) == 1)
    assert_undisturbed([*answers, *(each.result() for each in held)], undisturbed)
    assert logs("Ingress").count(MOVED) > moved
