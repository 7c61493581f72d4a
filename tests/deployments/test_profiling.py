"""Profiles of denoisers on a real Ray cluster, taken by `sluice profile` while images are drawn."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.serve
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from deployments.options.stages import AutoscalingOptions, DenoiserOptions, StagesConfig
from deployments.profiling import Denoisers
from deployments.replica_load import ReplicaLoad
from pipelines.contracts import GenerationResult
from pipelines.engine.observe.profiling import ProfileRequest
from pipelines.errors import ConfigurationError, NotReady, Overloaded, RequestTimeout
from tests.chrome_trace import events_of, marks_of, ticks_of
from tests.cluster import PATIENCE_S, LocalCluster, wait_until
from tests.deployments.driver import bind_denoisers, bind_driver, make_job
from tests.specs import tiny_spec

pytestmark = [pytest.mark.cluster, pytest.mark.long]

APP, SLEEPER = "profiled", "sleeper"
STEPS = 1_500
ENDLESS = 20_000
"""Steps of images that are drawn while a command starts, connects and asks, and then cancelled."""

COMMAND = (sys.executable, "-c", "from serve.cli.main import main; main()", "profile")

Driver = DeploymentHandle[Any]
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def driver(other_stages: Mapping[str, Driver], dev_like: Path) -> Iterator[Driver]:
    options = DenoiserOptions(num_replicas=2, calibration_s=0.1)
    config = StagesConfig(denoiser=options)
    application = bind_driver(tiny_spec(dev_like), config, other_stages)
    yield ray.serve.run(application, name=APP, route_prefix=None)
    ray.serve.delete(APP)


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Runs `sluice profile` as an operator would, in a process of its own."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        address = ray.get_runtime_context().gcs_address
        return subprocess.run(
            [*COMMAND, "--address", address, *arguments],
            cwd=tmp_path,
            env={**os.environ, "RAY_ADDRESS": ""},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture
def denoisers(driver: Driver) -> Denoisers:
    return Denoisers.of(APP)


def start(driver: Driver, **changes: Any) -> DeploymentResponse[GenerationResult]:
    response = driver.generate.remote(make_job(**changes))
    assert isinstance(response, DeploymentResponse)
    return response


def hashes(response: DeploymentResponse[GenerationResult]) -> list[str]:
    return [image.sha256 for image in response.result(timeout_s=PATIENCE_S).images]


def idle(denoisers: Denoisers) -> list[ReplicaLoad]:
    """Both replicas, once they have nothing to do."""
    wait_until(lambda: not any(load.works for load in denoisers.loads()))
    return denoisers.loads()


def test_under_load_the_busiest_replica_is_profiled(
    driver: Driver, denoisers: Denoisers, command: Command, tmp_path: Path
) -> None:
    idle(denoisers)
    under_way = start(driver, steps=ENDLESS)
    wait_until(lambda: denoisers.loads()[0].works == 1)
    busy = denoisers.loads()[0].replica
    done = command("--app", APP, "--ticks", "7", "--shapes")
    assert done.returncode == 0, done.stderr
    assert denoisers.loads()[0].works == 1, "the image must have lasted until here"
    under_way.cancel()
    assert f"replica {busy} (1 images" in done.stdout
    events = events_of((tmp_path / "profile.json.gz").read_bytes())
    names = ticks_of(events)
    assert len(names) == 7
    assert all("1 images, 32 tokens" in name for name in names)
    numbers = [int(name.split()[1].rstrip(":")) for name in names]
    assert numbers == list(range(numbers[0], numbers[0] + 7))
    assert {event["name"] for event in marks_of(events)} >= {"plan", "prepare", "step", "advance"}
    assert any(event["name"] == "aten::addmm" for event in events)
    assert "aten::addmm" in done.stdout
    assert "7 ticks of " in done.stdout


def test_an_image_that_is_profiled_is_the_same(driver: Driver, denoisers: Denoisers) -> None:
    job = {"steps": STEPS, "num_images": 1, "seed": 5}
    expected = hashes(start(driver, **job))
    request = ProfileRequest(ticks=7, timeout_s=10)
    with ThreadPoolExecutor(2) as pool:  # whichever replica draws it
        asked = [pool.submit(denoisers.profile, load.replica, request) for load in idle(denoisers)]
        while not any(each.done() for each in asked):
            assert hashes(start(driver, **job)) == expected
        assert any(each.exception() is None for each in asked)


def test_a_replica_that_is_named_and_draws_nothing_says_so(
    denoisers: Denoisers, command: Command, tmp_path: Path
) -> None:
    name = idle(denoisers)[1].replica
    done = command("--app", APP, "--replica", name, "--timeout", "0.5")
    assert done.returncode == 1
    assert f"replica {name} (0 images" in done.stdout
    assert done.stderr.startswith("error: no tick came within 0.5 s"), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_replicas_are_listed(denoisers: Denoisers, command: Command) -> None:
    names = {load.replica for load in idle(denoisers)}
    assert len(names) == 2
    done = command("--app", APP, "--list")
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in names)


def test_an_application_that_is_not_there(command: Command, driver: Driver) -> None:
    done = command("--app", "nope")
    assert done.returncode == 1
    before, _, names = done.stderr.strip().partition("; there are: ")
    assert before == "error: no application is called 'nope' here"
    assert APP in names.split(", ")  # other tests' may be there, too


def test_one_profile_of_a_replica_at_a_time(denoisers: Denoisers) -> None:
    name = idle(denoisers)[0].replica
    waits, tries = ProfileRequest(timeout_s=5), ProfileRequest(timeout_s=0.01)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(denoisers.profile, name, waits)

        def is_taken() -> bool:
            nonlocal first
            if first.done():  # a try was here before it, or it waited while nobody looked
                first = pool.submit(denoisers.profile, name, waits)
            try:
                denoisers.profile(name, tries)
            except RequestTimeout:  # it was here before the first
                return False
            return True

        with pytest.raises(Overloaded, match="one at a time"):
            wait_until(is_taken)
        with pytest.raises(RequestTimeout, match="no tick came within 5 s"):
            first.result()


def test_a_replica_that_has_gone_is_named(denoisers: Denoisers) -> None:
    with pytest.raises(NotReady, match="not there any more"):
        denoisers.profile("gone", ProfileRequest())


def test_a_denoiser_that_sleeps_is_not_woken(cluster: LocalCluster, dev_like: Path) -> None:
    options = DenoiserOptions(autoscaling=AutoscalingOptions(min_replicas=0), calibration_s=0.1)
    application = bind_denoisers(tiny_spec(dev_like), options)
    ray.serve.run(application, name=SLEEPER, route_prefix=None)
    try:
        with pytest.raises(NotReady, match="no replica of Denoiser runs: it sleeps"):
            Denoisers.of(SLEEPER)
    finally:
        ray.serve.delete(SLEEPER)


def test_an_application_without_a_denoiser(cluster: LocalCluster) -> None:
    class Other:
        """Draws nothing."""

    decorate = ray.serve.deployment(ray_actor_options={"num_cpus": 0.1})
    ray.serve.run(decorate(Other).bind(), name=SLEEPER, route_prefix=None)
    try:
        with pytest.raises(ConfigurationError, match="has no denoiser"):
            Denoisers.of(SLEEPER)
    finally:
        ray.serve.delete(SLEEPER)
