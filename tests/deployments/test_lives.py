"""Works on a real Ray cluster whose denoisers are killed and redeployed under them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
import ray.serve
from ray.serve.handle import DeploymentHandle, DeploymentResponse
from ray.serve.schema import ReplicaState

from deployments.options.stages import DenoiserOptions, StagesConfig
from pipelines.contracts import GenerationResult
from tests.cluster import (
    PATIENCE_S,
    LocalCluster,
    is_whole,
    kill,
    paused,
    paused_once,
    replica_processes,
    replicas_in,
    wait_until,
)
from tests.deployments.driver import Attempt, bind_denoisers, bind_driver, make_job
from tests.specs import tiny_spec

pytestmark = [pytest.mark.cluster, pytest.mark.long]

DENOISERS, APP = "lives-denoisers", "lives"
STEPS = 400
EARLY = 100
"""Steps of a job that something happens to. A denoiser takes a fraction of a second to hear of
it."""
STOPPING = ReplicaState.STOPPING

Driver = DeploymentHandle[Any]
Jobs = Mapping[str, DeploymentResponse[GenerationResult]]


@pytest.fixture(scope="module")
def deploy_denoisers(cluster: LocalCluster, dev_like: Path) -> Iterator[Callable[[], object]]:
    """Deploys two denoisers in place of those there are: Serve takes any deployment for a new one.

    They finish one image after the other: the last bits of a sum depend on the matrix that it is
    part of, and here files are compared byte by byte.
    """
    options = DenoiserOptions(
        num_replicas=2,
        num_cpus=0.2,
        health_check_period_s=1,
        policy="fifo",
        max_works=1,
        calibration_s=0.1,
    )
    denoisers = bind_denoisers(tiny_spec(dev_like), options)
    yield lambda: ray.serve.run(denoisers, name=DENOISERS, route_prefix=None)
    ray.serve.delete(DENOISERS)


@pytest.fixture(scope="module")
def driver(
    deploy_denoisers: Callable[[], object], other_stages: Mapping[str, Driver], dev_like: Path
) -> Iterator[Driver]:
    deploy_denoisers()
    handles = {
        **other_stages,
        "denoiser": ray.serve.get_deployment_handle("Denoiser", DENOISERS),
    }
    application = bind_driver(tiny_spec(dev_like), StagesConfig(), handles)
    yield ray.serve.run(application, name=APP, route_prefix=None)
    ray.serve.delete(APP)


@pytest.fixture(scope="module")
def twins(driver: Driver) -> list[str | None]:
    """The files of eight jobs that nothing disturbs."""
    return _files(_results(_start(driver, "undisturbed")))


def _start(driver: Driver, name: str) -> Jobs:
    """Eight requests at once, each with a seed of its own."""
    jobs = [make_job(f"{name}-{seed}", steps=STEPS, seed=seed) for seed in range(8)]
    return {job.request_id: cast(Any, driver.generate.remote(job)) for job in jobs}


def _start_together(driver: Driver, name: str) -> Jobs:
    """The same, and no denoiser takes one before it has all of its own."""
    with paused(_denoisers()):
        jobs = _start(driver, name)
        wait_until(lambda: all(_attempts(driver, request_id) for request_id in jobs))
    return jobs


def _results(jobs: Jobs) -> list[GenerationResult]:
    return [response.result(timeout_s=PATIENCE_S) for response in jobs.values()]


def _files(results: list[GenerationResult]) -> list[str | None]:
    return [result.images[0].b64 for result in results]


def _attempts(driver: Driver, request_id: str) -> list[Attempt]:
    return driver.attempts.remote(request_id).result(timeout_s=PATIENCE_S)


def _both_have_jobs_in_the_middle(driver: Driver, jobs: Jobs) -> bool:
    """Each denoiser has one job under way, so two of them are on both."""
    attempts = [_attempts(driver, request_id)[-1:] for request_id in jobs]
    return sum(bool(last and 0 < last[0].reached < EARLY) for last in attempts) >= 2


def _assert_disturbed_jobs_lost_no_checkpoint(
    driver: Driver, jobs: Jobs, results: list[GenerationResult]
) -> list[Attempt]:
    """Whoever was disturbed went on from its last checkpoint; the attempts that were cut short."""
    cut_short: list[Attempt] = []
    for request_id, result in zip(jobs, results, strict=True):
        attempts = _attempts(driver, request_id)
        starts = [attempt.start for attempt in attempts]
        assert starts == [0, *(attempt.reached for attempt in attempts[:-1])]
        assert result.resumed_at == tuple(a.reached for a in attempts[:-1] if not a.was_refused)
        assert result.images[0].steps_run == STEPS
        cut_short += attempts[:-1]
    assert any(attempt.reached for attempt in cut_short), "no job was in the middle"
    return cut_short


def _denoisers() -> list[psutil.Process]:
    return replica_processes("Denoiser", app=DENOISERS)


def test_jobs_move_when_their_denoisers_are_redeployed(
    driver: Driver, deploy_denoisers: Callable[[], object], twins: list[str | None]
) -> None:
    wait_until(lambda: is_whole(DENOISERS))
    denoisers = _denoisers()
    jobs = _start_together(driver, "redeployed")
    with ThreadPoolExecutor(1) as pool:
        with paused_once(lambda: _both_have_jobs_in_the_middle(driver, jobs), denoisers):
            deploying = pool.submit(deploy_denoisers)
            wait_until(lambda: replicas_in(STOPPING, "Denoiser", app=DENOISERS) > 0)
        deploying.result()
    results = _results(jobs)
    assert _files(results) == twins
    cut_short = _assert_disturbed_jobs_lost_no_checkpoint(driver, jobs, results)
    assert all(attempt.was_handed_over for attempt in cut_short)


def test_jobs_survive_the_kill_of_a_denoiser(driver: Driver, twins: list[str | None]) -> None:
    wait_until(lambda: is_whole(DENOISERS))
    denoisers = _denoisers()
    jobs = _start_together(driver, "killed")
    with paused_once(lambda: _both_have_jobs_in_the_middle(driver, jobs), denoisers):
        kill(denoisers[0], "Denoiser", app=DENOISERS)
    results = _results(jobs)
    assert _files(results) == twins
    cut_short = _assert_disturbed_jobs_lost_no_checkpoint(driver, jobs, results)
    assert not any(attempt.was_handed_over for attempt in cut_short)
