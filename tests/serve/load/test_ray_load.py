"""What is made of Ray's answers, and of its silence; `test_served.py` asks a real cluster."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException

from deployments.replica_load import ReplicaLoad
from serve.load import ray_load
from serve.load.ray_load import RayLoad
from serve.load.server_load import DeploymentLoad

LOAD = ReplicaLoad(replica="a", works=1, queued_s=1.0)
ASLEEP = DeploymentUnavailableError(DeploymentID("Denoiser"))


class Handle:
    """Of a deployment whose replicas give these answers."""

    def __init__(self, answers: Sequence[Any], error: Exception | None = None) -> None:
        self.answers = answers
        self.error = error

    def broadcast(self, method: str) -> Handle:
        assert method == "load"
        return self

    async def results_async(self, **_: Any) -> list[Any]:
        if self.error is not None:
            raise self.error
        return list(self.answers)


@pytest.fixture(autouse=True)
def none_deployed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray_load, "_deployments", lambda: None)


@pytest.mark.parametrize(
    ("handle", "loads"),
    [
        (Handle([LOAD]), [LOAD]),
        (Handle([LOAD, RayServeException("died")]), [LOAD]),
        (Handle([RayServeException("died")]), None),
        (Handle([], error=TimeoutError()), None),
        (Handle([], error=ASLEEP), []),
    ],
)
async def test_what_replicas_tell(handle: Any, loads: list[ReplicaLoad] | None):
    assert (await RayLoad(handle)()).denoisers == loads


async def test_a_controller_that_hangs_is_asked_by_one_thread(monkeypatch: pytest.MonkeyPatch):
    begun: list[int] = []
    go = threading.Event()
    deployed = [DeploymentLoad(name="Denoiser", status="HEALTHY", replicas={})]

    def hangs() -> list[DeploymentLoad]:
        begun.append(1)
        go.wait(60)
        return deployed

    monkeypatch.setattr(ray_load, "_deployments", hangs)
    monkeypatch.setattr(ray_load, "_ANSWER_S", 0.01)
    asks = RayLoad(Handle([LOAD]))  # type: ignore[arg-type]
    try:
        assert [(await asks()).deployments for _ in range(3)] == [None] * 3
        assert begun == [1]
    finally:
        go.set()
    monkeypatch.setattr(ray_load, "_ANSWER_S", 60.0)
    assert (await asks()).deployments == deployed
