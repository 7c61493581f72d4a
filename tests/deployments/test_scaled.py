"""A denoiser on a real Ray cluster that comes and goes with its work, and shares it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import ray.serve
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ReplicaState

from deployments.graph.forecast import Forecast
from deployments.options.stages import AutoscalingOptions, DenoiserOptions, StagesConfig
from pipelines.contracts import GenerationResult
from tests.cluster import PATIENCE_S, wait_until
from tests.deployments.driver import bind_driver, make_job
from tests.specs import tiny_spec

pytestmark = pytest.mark.cluster

APP = "scaled"
START_UP_S = 1.0
STEPS = 250
"""Enough that a few images are seconds of work."""
QUEUED = 16
"""Images under way, of which a denoiser takes four at once, until the second denoiser has some."""

Driver = DeploymentHandle[Any]


@pytest.fixture(scope="module")
def driver(other_stages: Mapping[str, Driver], dev_like: Path) -> Iterator[Driver]:
    scaling = AutoscalingOptions(
        min_replicas=0,
        max_replicas=2,
        target_wait_s=0.5,
        start_up_s=START_UP_S,
        upscale_delay_s=0,
        downscale_delay_s=3,
    )
    # Few at once, so that others wait when the second replica comes.
    denoiser = DenoiserOptions(num_cpus=0.2, autoscaling=scaling, calibration_s=0.1, max_works=4)
    config = StagesConfig(denoiser=denoiser)
    application = bind_driver(tiny_spec(dev_like), config, other_stages)
    yield ray.serve.run(application, name=APP, route_prefix=None)
    ray.serve.delete(APP)


def replicas(*states: ReplicaState) -> int:
    deployment = ray.serve.status().applications[APP].deployments["Denoiser"]
    return sum(deployment.replica_states.get(state, 0) for state in states)


def running() -> int:
    return replicas(ReplicaState.RUNNING)


def asked_for() -> int:
    return replicas(ReplicaState.STARTING, ReplicaState.RUNNING)


def forecast(driver: Driver) -> Forecast:
    return driver.forecast.remote(make_job("none", steps=STEPS)).result(timeout_s=PATIENCE_S)


def test_a_sleeping_denoiser_is_woken_grows_with_its_queue_and_sleeps_again(
    driver: Driver,
) -> None:
    assert running() == 0
    wait_until(lambda: forecast(driver).asleep == ("Denoiser",))
    assert forecast(driver) == Forecast(asleep=("Denoiser",), cold_start_s=START_UP_S)
    first = driver.generate.remote(make_job("first")).result(timeout_s=PATIENCE_S)
    assert len(first.images) == 1
    assert first.cold_stages == ("Denoiser",)
    assert 0 < first.timings["cold_start"] < first.timings["total"]
    wait_until(lambda: running() == 1)
    results = drawn_until_some_moved(driver)
    assert len({image.sha256 for result in results for image in result.images}) == len(results)
    assert {result.cold_stages for result in results} == {()}
    wait_until(lambda: asked_for() == 0)
    wait_until(lambda: forecast(driver).asleep == ("Denoiser",))
    known = forecast(driver)  # what a start takes, and what the last denoiser could do
    assert known.cold_start_s not in (0, START_UP_S)
    assert known.queued_s == 0
    assert known.eta_s is not None
    assert known.eta_s > known.cold_start_s


def drawn_until_some_moved(driver: Driver) -> list[GenerationResult]:
    """Keeps a queue, for as long as it takes until what had been sent to the first denoiser, and
    had not begun, goes to the second; the results of all."""
    jobs: list[tuple[str, Any]] = []
    results: list[GenerationResult] = []
    deadline = time.monotonic() + PATIENCE_S
    for seed in itertools.count():
        name = f"job-{seed}"
        jobs.append((name, driver.generate.remote(make_job(name, seed=seed, steps=STEPS))))
        if len(jobs) < QUEUED:
            continue
        if any(has_moved(driver, each) for each, _ in jobs):
            break
        assert time.monotonic() < deadline, "no work went to a second denoiser"
        results.append(jobs.pop(0)[1].result(timeout_s=PATIENCE_S))
    assert asked_for() == 2
    return results + [job.result(timeout_s=PATIENCE_S) for _, job in jobs]


def has_moved(driver: Driver, name: str) -> bool:
    """Whether an image was handed over before it had begun."""
    attempts = driver.attempts.remote(name).result(timeout_s=PATIENCE_S)
    return any(attempt.was_handed_over and not attempt.reached for attempt in attempts[:-1])
