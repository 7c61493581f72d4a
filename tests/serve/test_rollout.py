"""The product on a real cluster, changed in place and rolled out anew under clients that ask on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray.serve

from deployments.options import AutoscalingOptions
from pipelines.errors import ConfigurationError
from tests.cluster import LocalCluster, wait_until
from tests.serve.rollout import (
    APP,
    PROMPT,
    REQUESTS,
    STAGES,
    URL,
    Answer,
    ask,
    asking,
    configuration,
    deploy,
    deploy_unchecked,
    is_running,
    logs,
    replicas,
    running,
    url_of,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

Deploy = Callable[..., None]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rollout") / "serve.yaml"


@pytest.fixture(scope="module")
def deployed(cluster: LocalCluster, file: Path) -> Iterator[None]:
    """The application as it is before anything changes."""
    change(file)
    wait_until(is_running)
    yield
    ray.serve.delete(APP)


@pytest.fixture(scope="module")
def client(cluster: LocalCluster, deployed: None) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url_of(cluster), timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def undisturbed(client: httpx.Client) -> set[Answer]:
    """The answers to all requests while nothing changes."""
    answers = {ask(client, request) for request in REQUESTS}
    assert all(answer.trouble is None for answer in answers), answers
    return answers


def change(
    file: Path, *overrides: Mapping[str, Any], args: Mapping[str, Any] | None = None
) -> None:
    deploy(file, configuration(file.parent, args or {}, overrides))


def refusal(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 400, response.text
    return response.json()["error"]


def policy() -> str:
    denoiser = ray.serve.get_deployment_handle("Denoiser", APP)
    return denoiser.stats.remote().result(timeout_s=60).policy


def test_user_config_changes_limits_threshold_and_policy_in_place(
    client: httpx.Client, file: Path
) -> None:
    before = replicas()
    three = {"prompt": PROMPT, "n": 3}
    assert client.post(URL, json=three).status_code == 200
    assert policy() == "fifo"
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
    wait_until(lambda: policy() == "srpt")
    change(file)
    wait_until(lambda: client.post(URL, json=three).status_code == 200)
    wait_until(lambda: policy() == "fifo")
    assert replicas() == before
