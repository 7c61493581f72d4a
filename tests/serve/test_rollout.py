"""The product on a real cluster, changed in place and rolled out anew under clients that ask on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray.serve

from deployments.options.stages import AutoscalingOptions
from pipelines.engine.observe.stats import EngineStats
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

SCALED = AutoscalingOptions(max_replicas=2)
MOVED = "its denoiser goes away, an image goes on from step"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rollout") / "serve.yaml"


@pytest.fixture(scope="module")
def client(cluster: LocalCluster, file: Path) -> Iterator[httpx.Client]:
    """A client of the application as it is before anything changes."""
    change(file)
    wait_until(is_running)
    with httpx.Client(base_url=url_of(cluster), timeout=120) as client:
        yield client
    ray.serve.delete(APP)


@pytest.fixture(scope="module")
def undisturbed(client: httpx.Client) -> set[Answer]:
    """The answers to all requests while nothing changes."""
    answers = {ask(client, request) for request in REQUESTS}
    assert not any(answer.trouble for answer in answers), answers
    return answers


def change(
    file: Path,
    *overrides: Mapping[str, Any],
    finisher: Mapping[str, Any] | None = None,
    version: str = "first",
    **spare: Any,
) -> None:
    """Deploy with other overrides; a `version`, and `spare` places, restart all replicas."""
    args: dict[str, Any] = {"served_model_name": version, "ingress": {"num_cpus": 0.1, **spare}}
    finisher = {"name": "Finisher", "autoscaling_config": SCALED.serve_config(), **(finisher or {})}
    content = configuration(file.parent, args, [finisher, *overrides])
    stages = content["applications"][0]["args"]["stages"]
    for stage in STAGES:
        stages[stage] |= spare
    stages["finisher"]["autoscaling"] = SCALED.model_dump(exclude_none=True)
    deploy(file, content)


def refusal(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 400, response.text
    return response.json()["error"]


def engine() -> EngineStats:
    """The denoiser's, of one of its replicas."""
    denoiser: Any = ray.serve.get_deployment_handle("Denoiser", APP)
    return denoiser.stats.remote().result(timeout_s=60)


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
    assert engine().policy == "fifo"
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
    wait_until(lambda: engine().policy == "srpt")
    change(file)
    wait_until(lambda: client.post(URL, json=three).status_code == 200)
    wait_until(lambda: engine().policy == "fifo")
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
    assert engine().policy == "fifo"
    assert replicas() == before


def test_bounds_and_target_wait_of_autoscaling_change_in_place(
    client: httpx.Client, file: Path
) -> None:
    before = replicas()
    two = SCALED.serve_config() | {"min_replicas": 2}
    waits = {"autoscaling": {"target_wait_s": 0.5}}
    change(file, finisher={"autoscaling_config": two, "user_config": waits})
    wait_until(lambda: running("Finisher") == 2)
    wait_until(lambda: target_waits() == [0.5, 0.5])
    assert replicas() > before
    change(file)
    wait_until(lambda: set(target_waits()) == {SCALED.target_wait_s})
    assert replicas() >= before


def test_a_denoiser_that_is_scaled_down_hands_its_works_over(
    cluster: LocalCluster, client: httpx.Client, file: Path, undisturbed: set[Answer]
) -> None:
    change(file, {"name": "Denoiser", "num_replicas": 2})
    wait_until(lambda: running("Denoiser") == 2)
    moved = logs("Ingress").count(MOVED)
    with asking(url_of(cluster)) as answers:
        wait_until(lambda: len(answers) > len(REQUESTS))
        change(file)
        wait_until(lambda: len(replicas("Denoiser")) == 1)
    assert set(answers) == undisturbed
    assert logs("Ingress").count(MOVED) > moved


def test_a_new_version_takes_over_without_an_error_seen_by_clients(
    cluster: LocalCluster, client: httpx.Client, file: Path, undisturbed: set[Answer]
) -> None:
    before = replicas()
    with asking(url_of(cluster)) as answers:
        wait_until(lambda: len(answers) > len(REQUESTS))
        change(file, version="second", max_surge_percent=100)
        wait_until(lambda: not replicas() & before)
        wait_until(is_running)
    assert set(answers) == undisturbed
    assert client.get("/v1/models").json()["data"][0]["id"] == "second"


def test_requests_under_way_are_answered_when_the_application_is_deleted(
    client: httpx.Client, undisturbed: set[Answer]
) -> None:
    def came() -> int:
        stats = engine()
        return stats.finished + stats.works

    before, images = came(), sum(request.get("n", 1) for request in REQUESTS)
    with ThreadPoolExecutor(len(REQUESTS)) as pool:
        under_way = [pool.submit(ask, client, request) for request in REQUESTS]
        wait_until(lambda: came() == before + images)
        ray.serve.delete(APP)
        assert {each.result() for each in under_way} == undisturbed
    assert "the works are finished here" in logs("Denoiser")
