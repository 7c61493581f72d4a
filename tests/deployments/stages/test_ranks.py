"""A denoiser of two ranks on a real Ray cluster: exact, and replaced when a rank dies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray.serve
from ray.serve.handle import DeploymentHandle

from deployments.options.stages import DenoiserOptions, ParallelOptions, StagesConfig
from pipelines.contracts import GenerationResult
from pipelines.errors import ConfigurationError
from tests.cluster import (
    PATIENCE_S,
    children_called,
    paused,
    paused_once,
    replica_processes,
    wait_until,
)
from tests.deployments.driver import Attempt, bind_driver, make_job
from tests.deployments.images import pixels_of
from tests.oracle import compare, oracle_images
from tests.specs import tiny_spec

pytestmark = pytest.mark.cluster

APP = "ranks"
STEPS = 60

Driver = DeploymentHandle[Any]


@pytest.fixture(scope="module")
def driver(other_stages: Mapping[str, Driver], dev_like: Path) -> Iterator[Driver]:
    denoiser = DenoiserOptions(
        num_cpus=0.2,
        health_check_period_s=1,
        calibration_s=0.1,
        parallel=ParallelOptions(tensor=2),
    )
    config = StagesConfig(denoiser=denoiser)
    application = bind_driver(tiny_spec(dev_like), config, other_stages)
    yield ray.serve.run(application, name=APP, route_prefix=None)
    ray.serve.delete(APP)


def further_ranks() -> list[psutil.Process]:
    """Processes of ranks but the first, among those that this test session started."""
    return children_called("ray::RankActor")


def first_ranks() -> list[psutil.Process]:
    return replica_processes("Denoiser", app=APP)


def attempts(driver: Driver, request_id: str) -> list[Attempt]:
    return driver.attempts.remote(request_id).result(timeout_s=PATIENCE_S)


def assert_exact(result: GenerationResult, folder: Path, job: Any) -> None:
    for image, theirs in zip(result.images, oracle_images(folder, job.params), strict=True):
        assert compare(pixels_of(image), theirs).is_exact


def test_two_ranks_draw_what_the_oracle_draws(driver: Driver, dev_like: Path) -> None:
    jobs = [
        make_job("small", steps=3, num_images=2),
        make_job("wide", steps=4, width=96, seed=5),
        make_job("guided", steps=3, negative_prompt="a blue square", true_cfg_scale=2.0, seed=7),
    ]
    responses = [driver.generate.remote(job) for job in jobs]
    assert len(further_ranks()) == 1
    for job, response in zip(jobs, responses, strict=True):
        assert_exact(response.result(timeout_s=PATIENCE_S), dev_like, job)


def test_a_rank_that_dies_takes_its_replica_along_and_no_image_is_lost(
    driver: Driver, dev_like: Path
) -> None:
    jobs = [make_job(f"long-{seed}", steps=STEPS, seed=seed) for seed in range(4)]
    ranks = first_ranks()
    with paused(ranks):  # so that they begin together
        responses = [driver.generate.remote(job) for job in jobs]
        wait_until(lambda: all(attempts(driver, job.request_id) for job in jobs))
    with paused_once(lambda: all(in_the_middle(driver, job) for job in jobs), ranks):
        (victim,) = further_ranks()
        victim.kill()
    results = [response.result(timeout_s=PATIENCE_S) for response in responses]
    for job, result in zip(jobs, results, strict=True):
        assert_exact(result, dev_like, job)
        tried = attempts(driver, job.request_id)
        assert [attempt.start for attempt in tried] == [0, *(a.reached for a in tried[:-1])]
        assert result.resumed_at
        assert min(result.resumed_at) > 0
    wait_until(lambda: len(further_ranks()) == 1)
    assert victim.pid not in [process.pid for process in further_ranks()]


def in_the_middle(driver: Driver, job: Any) -> bool:
    """Whether its latest attempt has made a checkpoint, and is not near the end."""
    made = attempts(driver, job.request_id)
    return bool(made) and 0 < made[-1].reached < STEPS - 20


def test_ranks_need_a_cluster() -> None:
    from deployments.stages.ranks import start_ranks

    with pytest.raises(ConfigurationError, match=r"denoiser\.parallel: needs a replica"):
        start_ranks("nowhere", DenoiserOptions(parallel=ParallelOptions(ulysses=2)))
