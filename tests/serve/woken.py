"""The whole product, deployed with all stages asleep, and what clients were told as it woke.

Two files of tests use it: one looks at how it woke, the other at how it serves from then on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import ray.serve
from ray.serve.schema import ReplicaState

from pipelines.engine.observe.stats import EngineStats
from serve.app import build
from tests.cluster import PATIENCE_S, LocalCluster, wait_until

APP = "served-test"
STAGES = {"TextEncoder", "Denoiser", "VaeDecoder", "SafetyClassifier", "Finisher"}
"""All that a request without pictures needs, and so wakes: not the image encoder."""
BODY_TIMEOUT_S = 10.0
CONFIGURED_S = 60.0
"""Longer than the deadline that is refused, and than a start really takes."""

_IMAGES = "/v1/images"
_BODY = {"prompt": "a red circle", "n": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Woken:
    """The application, awake; `client` is one of it.

    `before` is what a preflight said while all slept, when Serve had been asked for the stages
    `asked_for_before`. The request with a deadline that was then `refused` woke `asked_for_after`.
    The `first` was drawn after that, and the `second` after the first.
    """

    client: httpx.Client
    before: dict[str, Any]
    asked_for_before: set[str]
    refused: httpx.Response
    asked_for_after: set[str]
    first: httpx.Response
    second: httpx.Response

    def preflight(self, **fields: Any) -> dict[str, Any]:
        return _preflight(self.client, **fields)

    def engine(self) -> EngineStats:
        """The denoiser's."""
        denoiser: Any = ray.serve.get_deployment_handle("Denoiser", APP)
        return denoiser.stats.remote().result(timeout_s=PATIENCE_S)


@pytest.fixture(scope="session")
def woken(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Woken]:
    """The application with the carried model, which was asleep at first."""
    # Once awake, it stays so.
    scaling = {"min_replicas": 0, "start_up_s": CONFIGURED_S, "downscale_delay_s": 36_000}
    keys = ("text_encoder", "image_encoder", "denoiser", "vae_decoder", "safety", "finisher")
    stages: dict[str, Any] = {key: {"autoscaling": scaling} for key in keys}
    stages["denoiser"]["calibration_s"] = 0.1
    stages["storage"] = {"directory": str(tmp_path_factory.mktemp("files"))}
    settings = {
        "stages": stages,
        "limits": {"max_queued_images": 2, "body_timeout_s": BODY_TIMEOUT_S},
        "metrics": {"route": True},
    }
    ray.serve.run(build(settings), name=APP, route_prefix="/served")
    base_url = f"http://127.0.0.1:{cluster.http_port}/served"
    try:
        with httpx.Client(base_url=base_url, timeout=PATIENCE_S) as client:
            yield _wake(client)
    finally:
        ray.serve.delete(APP)


def _wake(client: httpx.Client) -> Woken:
    wait_until(lambda: set(_preflight(client)["asleep"]) == STAGES)
    before = _preflight(client, deadline_ms=1000)
    asked_for_before = _asked_for()
    # Refused before it has reached any stage: whatever starts now, it has woken.
    refused = client.post(f"{_IMAGES}/generations", json={**_BODY, "deadline_ms": 1000})
    wait_until(lambda: _asked_for() == STAGES)
    asked_for_after = _asked_for()
    first, second = (client.post(f"{_IMAGES}/generations", json=_BODY) for _ in range(2))
    wait_until(lambda: _preflight(client)["eta_ms"] is not None)  # the denoiser's first report
    return Woken(
        client=client,
        before=before,
        asked_for_before=asked_for_before,
        refused=refused,
        asked_for_after=asked_for_after,
        first=first,
        second=second,
    )


def _asked_for() -> set[str]:
    """The stages that Serve has started a replica of, or is starting one."""
    stages = ray.serve.status().applications[APP].deployments
    return {
        name
        for name in stages
        if name != "Ingress"
        and stages[name].replica_states.keys() & {ReplicaState.STARTING, ReplicaState.RUNNING}
    }


def _preflight(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = client.post(f"{_IMAGES}/preflight", json={**_BODY, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()
