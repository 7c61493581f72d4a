"""Fused stages on a real cluster, rolled out anew and deleted under clients that ask on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import ray.serve

from tests.cluster import (
    PATIENCE_S,
    LocalCluster,
    paused,
    replica_processes,
    wait_until,
)
from tests.serve.rollout import (
    APP,
    REQUESTS,
    Answer,
    are_told_to_stop,
    ask,
    asking,
    assert_undisturbed,
    configuration,
    deploy,
    is_running,
    replicas,
    undisturbed_answers,
    url_of,
)

pytestmark = [pytest.mark.cluster, pytest.mark.long]

Deploy = Callable[[str], None]


@pytest.fixture(scope="module")
def deploy_version(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Deploy:
    """Deploys two replicas of everything under a name for the model, and without spare places."""
    folder = tmp_path_factory.mktemp("fused")

    def deploy_it(version: str) -> None:
        args = {"served_model_name": version, "ingress": {"num_cpus": 0.1, "num_replicas": 2}}
        content = configuration(folder, args, [])
        content["applications"][0]["args"]["stages"]["layout"] = "fused"
        content["applications"][0]["args"]["stages"]["denoiser"]["num_replicas"] = 2
        deploy(folder / "serve.yaml", content)

    return deploy_it


@pytest.fixture(scope="module")
def client(cluster: LocalCluster, deploy_version: Deploy) -> Iterator[httpx.Client]:
    deploy_version("first")
    wait_until(is_running)
    with httpx.Client(base_url=url_of(cluster), timeout=PATIENCE_S) as client:
        yield client
    ray.serve.delete(APP)


def told(fused: Any) -> list[dict[str, float]]:
    """What each replica says of its work."""
    return fused.broadcast("record_autoscaling_stats").results()


@pytest.fixture(scope="module")
def undisturbed(client: httpx.Client) -> Mapping[int, Answer]:
    return undisturbed_answers(client)


def test_without_spare_places_the_other_of_two_replicas_serves_meanwhile(
    cluster: LocalCluster,
    client: httpx.Client,
    deploy_version: Deploy,
    undisturbed: Mapping[int, Answer],
) -> None:
    before = replicas()
    with asking(url_of(cluster)) as answers:
        wait_until(lambda: len(answers) > len(REQUESTS))
        deploy_version("second")
        wait_until(lambda: not replicas() & before)
        wait_until(is_running)
    assert_undisturbed(answers, undisturbed)
    assert client.get("/v1/models").json()["data"][0]["id"] == "second"


def test_requests_under_way_are_answered_when_the_application_is_deleted(
    client: httpx.Client, undisturbed: Mapping[int, Answer]
) -> None:
    fused: Any = ray.serve.get_deployment_handle("Fused", APP)
    with ThreadPoolExecutor(2) as pool:
        under_way = pool.submit(ask, client, REQUESTS[-1])
        wait_until(lambda: any(each["queued_s"] for each in told(fused)))
        names = replicas("Fused")
        with paused(replica_processes("Fused", app=APP)):  # so that it is still under way
            deleting = pool.submit(ray.serve.delete, APP)
            wait_until(lambda: are_told_to_stop(names))
        assert_undisturbed([under_way.result()], undisturbed)
        deleting.result()
