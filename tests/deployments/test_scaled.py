"""A denoiser on a real Ray cluster that comes and goes with its work, and shares it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray.serve
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ReplicaState

from deployments.graph.forecast import Forecast
from deployments.options.stages import AutoscalingOptions, DenoiserOptions, StagesConfig
from tests.cluster import LocalCluster, wait_until
from tests.deployments.driver import bind_driver, make_job
from tests.specs import tiny_spec

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

APP = "scaled"
DEADLINE_S = 120.0
START_UP_S = 1.0
STEPS = 500
"""Enough that a few images are seconds of work."""

Driver = DeploymentHandle[Any]


@pytest.fixture(scope="module")
def driver(cluster: LocalCluster, dev_like: Path) -> Iterator[Driver]:
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
    application = bind_driver(tiny_spec(dev_like), StagesConfig(denoiser=denoiser))
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
    return driver.forecast.remote(make_job("none", steps=STEPS)).result(timeout_s=DEADLINE_S)


def test_a_sleeping_denoiser_is_woken_grows_with_its_queue_and_sleeps_again(
    driver: Driver,
) -> None:
    assert running() == 0
    wait_until(lambda: forecast(driver).asleep == ("Denoiser",))
    assert forecast(driver) == Forecast(asleep=("Denoiser",), cold_start_s=START_UP_S)
    first = driver.generate.remote(make_job("first")).result(timeout_s=DEADLINE_S)
    assert len(first.images) == 1
    assert first.cold_stages == ("Denoiser",)
    assert 0 < first.timings["cold_start"] < first.timings["total"]
    wait_until(lambda: running() == 1)
    jobs = [driver.generate.remote(make_job(f"job-{i}", seed=i, steps=STEPS)) for i in range(24)]
    wait_until(lambda: asked_for() == 2)
    results = [job.result(timeout_s=DEADLINE_S) for job in jobs]
    assert len({image.sha256 for result in results for image in result.images}) == 24
    # What had been sent to the first replica, and had not begun, went to the second.
    attempts = [
        driver.attempts.remote(f"job-{i}").result(timeout_s=DEADLINE_S) for i in range(len(jobs))
    ]
    assert any(first.was_handed_over and not first.reached for first, *_ in attempts)
    assert {result.cold_stages for result in results} == {()}
    wait_until(lambda: asked_for() == 0)
    wait_until(lambda: forecast(driver).asleep == ("Denoiser",))
    known = forecast(driver)  # what a start takes, and what the last denoiser could do
    assert known.cold_start_s not in (0, START_UP_S)
    assert known.queued_s == 0
    assert known.eta_s is not None
    assert known.eta_s > known.cold_start_s
