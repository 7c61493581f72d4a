"""Each process of the application is killed under eight jobs, and all eight images are exact."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import pytest
import ray.exceptions
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from deployments.names import StageName
from pipelines.contracts import GenerationJob, GenerationResult, ServiceTerms
from tests.cluster import (
    PATIENCE_S,
    children_called,
    is_whole,
    kill,
    paused_once,
    replica_names,
    replica_processes,
    wait_until,
)
from tests.deployments.conftest import GRAPH_APP as APP
from tests.deployments.driver import Attempt, make_job
from tests.deployments.images import pixels_of
from tests.oracle import compare, oracle_batch

pytestmark = pytest.mark.cluster

STEPS = 40
JOBS = 8
STAGES = [name for name in StageName if name is not StageName.FUSED]
TURN_S = 0.001
"""A stage has a call for longer than its process runs in that time: several threads hand it on."""

Driver = DeploymentHandle[Any]


@pytest.fixture
def driver(graph_driver: Driver) -> Driver:
    wait_until(lambda: is_whole(APP))
    return graph_driver


@pytest.fixture(scope="module")
def expected(dev_like: Path) -> list[np.ndarray]:
    return oracle_batch(dev_like, [_job("", seed).params for seed in range(JOBS)])


def _job(name: str, seed: int) -> GenerationJob:
    job = make_job(f"{name}-{seed}", prompt=f"a red circle, {seed}", seed=seed, steps=STEPS)
    # No prompt of another tenant's is in the encoder's cache.
    return replace(job, terms=ServiceTerms(tenant=name))


class EightJobs:
    """Eight requests at once, each with a prompt and a seed of its own."""

    def __init__(self, driver: Driver, name: str) -> None:
        self._driver = driver
        jobs = [_job(name, seed) for seed in range(JOBS)]
        self._responses: dict[str, DeploymentResponse[GenerationResult]] = {
            job.request_id: cast(Any, driver.generate.remote(job)) for job in jobs
        }

    def results(self) -> list[GenerationResult]:
        return [response.result(timeout_s=PATIENCE_S) for response in self._responses.values()]

    def attempts(self) -> list[list[Attempt]]:
        """Of each, the calls to denoise so far."""
        return [
            self._driver.attempts.remote(request_id).result(timeout_s=PATIENCE_S)
            for request_id in self._responses
        ]

    def are_with_the_denoiser(self) -> bool:
        """All eight have been handed to it, and of some it has run steps."""
        attempts = self.attempts()
        return all(attempts) and any(last.reached for (*_, last) in attempts)


def _assert_exact(results: list[GenerationResult], expected: list[np.ndarray]) -> None:
    for result, theirs in zip(results, expected, strict=True):
        (image,) = result.images
        assert image.steps_run == STEPS
        difference = compare(pixels_of(image), theirs)
        assert difference.is_exact, difference


def test_a_denoiser(driver: Driver, expected: list[np.ndarray]) -> None:
    jobs = EightJobs(driver, "denoiser")
    with paused_once(jobs.are_with_the_denoiser, _denoisers, turn_s=TURN_S):
        kill(_denoisers()[0], StageName.DENOISER, app=APP)
    results = jobs.results()
    _assert_exact(results, expected)
    # Each began anew, or went on, where it had been when its replica died.
    for result, (first, *later) in zip(results, jobs.attempts(), strict=True):
        assert result.resumed_at[:1] == (first.reached,)
        assert later
    assert any(any(result.resumed_at) for result in results), "nothing was kept of any"


@pytest.mark.parametrize("stage", [name for name in STAGES if name is not StageName.DENOISER])
def test_a_stage_of_short_calls(
    driver: Driver, stage: StageName, expected: list[np.ndarray]
) -> None:
    def made() -> int:
        return driver.calls_made.remote(stage).result(timeout_s=PATIENCE_S)

    def has_calls() -> bool:
        return driver.calls_taken.remote(stage).result(timeout_s=PATIENCE_S) > 0

    def replicas() -> list[psutil.Process]:
        return replica_processes(stage, app=APP)

    before = made()
    jobs = EightJobs(driver, stage.key)
    # With the first calls that it takes: none of the eight has got past it.
    with paused_once(has_calls, replicas, turn_s=TURN_S):
        kill(replicas()[0], stage, app=APP)
    _assert_exact(jobs.results(), expected)
    assert made() - before > JOBS, "no call died with its replica"


def test_serves_controller(driver: Driver, expected: list[np.ndarray]) -> None:
    """What it keeps in Ray's control service, it knows again; no replica is started for it."""
    replicas = replica_names(APP)
    (controller,) = _controllers()
    jobs = EightJobs(driver, "controller")
    with paused_once(jobs.are_with_the_denoiser, _denoisers, turn_s=TURN_S):
        controller.kill()
        controller.wait()
    results = jobs.results()
    _assert_exact(results, expected)
    assert not any(result.resumed_at for result in results)
    wait_until(_is_whole_again)
    assert controller not in _controllers()
    assert replica_names(APP) == replicas
    _assert_exact(EightJobs(driver, "recovered").results(), expected)


def _denoisers() -> list[psutil.Process]:
    return replica_processes(StageName.DENOISER, app=APP)


def _controllers() -> list[psutil.Process]:
    return children_called("ray::ServeController")


def _is_whole_again() -> bool:
    with contextlib.suppress(ray.exceptions.RayError):
        return is_whole(APP)
    return False  # the controller does not answer yet
