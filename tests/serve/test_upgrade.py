"""The product on a real cluster, rolled out anew and deleted under clients that ask on.

All replicas go, so this comes after the tests that leave them running.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray.serve

from pipelines.engine.observe.stats import EngineStats
from tests.cluster import (
    PATIENCE_S,
    LocalCluster,
    is_whole,
    paused,
    replica_processes,
    wait_until,
)
from tests.serve.rollout import (
    AMPLE_S,
    APP,
    BALLAST,
    REQUESTS,
    Answer,
    are_told_to_stop,
    ask,
    asking,
    assert_undisturbed,
    change,
    is_running,
    logs,
    replicas,
    url_of,
)

pytestmark = pytest.mark.cluster

ALL = REQUESTS + BALLAST
IMAGES = sum(request.get("n", 1) for request in ALL)


def test_a_new_version_takes_over_without_an_error_seen_by_clients(
    cluster: LocalCluster,
    rollout_client: httpx.Client,
    rollout_file: Path,
    undisturbed: Mapping[int, Answer],
) -> None:
    before = replicas()
    with asking(url_of(cluster)) as answers:
        wait_until(lambda: len(answers) > len(REQUESTS))
        change(rollout_file, version="second", max_surge_percent=100)
        wait_until(lambda: not replicas() & before)
        wait_until(is_running)
    assert_undisturbed(answers, undisturbed)
    assert rollout_client.get("/v1/models").json()["data"][0]["id"] == "second"


def test_requests_under_way_are_answered_when_the_application_is_deleted(
    rollout_client: httpx.Client, undisturbed: Mapping[int, Answer]
) -> None:
    wait_until(lambda: is_whole(APP))
    before = came()
    denoisers, names = replica_processes("Denoiser", app=APP), replicas("Denoiser")
    with ThreadPoolExecutor(len(ALL) + 1) as pool:
        under_way = [pool.submit(ask, rollout_client, request) for request in ALL]
        wait_until(lambda: came() == before + IMAGES and engine().queued_s > AMPLE_S)
        with paused(denoisers):  # so that it has works when it is to go
            deleting = pool.submit(ray.serve.delete, APP)
            wait_until(lambda: are_told_to_stop(names))
        assert_undisturbed([each.result() for each in under_way], undisturbed)
        deleting.result()
    assert "the works are finished here" in logs("Denoiser")


def came() -> int:
    """Works that have come to the denoiser so far."""
    stats = engine()
    return stats.finished + stats.works


def engine() -> EngineStats:
    denoiser: Any = ray.serve.get_deployment_handle("Denoiser", APP)
    return denoiser.stats.remote().result(timeout_s=PATIENCE_S)
