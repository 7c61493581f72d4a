"""Each process of the application is killed under eight jobs, and all eight images are exact."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray.exceptions
from ray.serve.handle import DeploymentHandle

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
STAGES = [name for name in StageName if name not in (StageName.FUSED, StageName.IMAGE_ENCODER)]
"""Those that have to do with these jobs; `test_picture_stages.py` kills the other."""

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
    """Eight requests at once, each with a prompt and a seed of its own; the `number`-th such."""

    def __init__(self, driver: Driver, name: str, number: int = 1) -> None:
        self.number = number
        self._driver = driver
        jobs = [_job(f"{name}-{number}", seed) for seed in range(JOBS)]
        self._request_ids = [job.request_id for job in jobs]
        pool = ThreadPoolExecutor(JOBS)
        responses: list[Any] = [driver.generate.remote(job) for job in jobs]
        self._results: list[Future[GenerationResult]] = [
            pool.submit(response.result, timeout_s=PATIENCE_S) for response in responses
        ]
        pool.shutdown(wait=False)

    @property
    def done(self) -> int:
        """How many have their answer."""
        return sum(result.done() for result in self._results)

    def results(self) -> list[GenerationResult]:
        return [result.result() for result in self._results]

    def attempts(self) -> list[list[Attempt]]:
        """Of each, the calls to denoise so far."""
        return [
            self._driver.attempts.remote(request_id).result(timeout_s=PATIENCE_S)
            for request_id in self._request_ids
        ]

    def are_with_the_denoiser(self) -> bool:
        """All eight have been handed to it and none has come back; of some it has run steps."""
        attempts = self.attempts()
        if not all(attempts):
            return False
        latest = [last for (*_, last) in attempts]
        return any(last.reached for last in latest) and not any(
            last.was_answered for last in latest
        )


@contextmanager
def caught(
    driver: Driver, stage: StageName, name: str, is_true: Callable[[EightJobs], bool]
) -> Iterator[EightJobs]:
    """Eight jobs of which none is done, with a stage that stands still in the moment when something
    is true of them. Eight others follow where they went past it unseen."""
    under_way = EightJobs(driver, name)

    def is_the_moment() -> bool:
        nonlocal under_way
        if under_way.done == JOBS:
            under_way = EightJobs(driver, name, under_way.number + 1)
        return is_true(under_way) and under_way.done == 0

    with paused_once(is_the_moment, replica_processes(stage, app=APP)):
        yield under_way


def _assert_exact(results: list[GenerationResult], expected: list[np.ndarray]) -> None:
    for result, theirs in zip(results, expected, strict=True):
        (image,) = result.images
        assert image.steps_run == STEPS
        difference = compare(pixels_of(image), theirs)
        assert difference.is_exact, difference


def test_a_denoiser(driver: Driver, expected: list[np.ndarray]) -> None:
    stage = StageName.DENOISER
    with caught(driver, stage, "denoiser", EightJobs.are_with_the_denoiser) as jobs:
        _kill(stage)
    results = jobs.results()
    _assert_exact(results, expected)
    # Each went on from its last checkpoint, or began anew if it had none; save one whose latents
    # were on their way when the denoiser was stopped.
    for result, (first, *later) in zip(results, jobs.attempts(), strict=True):
        assert result.resumed_at[:1] == (() if first.was_answered else (first.reached,))
        assert bool(later) is not first.was_answered
    assert any(any(result.resumed_at) for result in results), "nothing was kept of any"


@pytest.mark.parametrize("stage", [name for name in STAGES if name is not StageName.DENOISER])
def test_a_stage_of_short_calls(
    driver: Driver, stage: StageName, expected: list[np.ndarray]
) -> None:
    def made() -> int:
        return driver.calls_made.remote(stage).result(timeout_s=PATIENCE_S)

    def has_calls(_: EightJobs) -> bool:
        return driver.calls_taken.remote(stage).result(timeout_s=PATIENCE_S) > 0

    before = made()
    with caught(driver, stage, stage.key, has_calls) as jobs:
        _kill(stage)
    _assert_exact(jobs.results(), expected)
    assert made() - before > JOBS * jobs.number, "no call was made again"


def test_serves_controller(driver: Driver, expected: list[np.ndarray]) -> None:
    """What it keeps in Ray's control service, it knows again; no replica is started for it."""
    replicas = replica_names(APP)
    (controller,) = _controllers()
    with caught(driver, StageName.DENOISER, "controller", EightJobs.are_with_the_denoiser) as jobs:
        controller.kill()
        controller.wait()
    results = jobs.results()
    _assert_exact(results, expected)
    assert not any(result.resumed_at for result in results)
    wait_until(_is_whole_again)
    assert controller not in _controllers()
    assert replica_names(APP) == replicas
    _assert_exact(EightJobs(driver, "recovered").results(), expected)


def _kill(stage: StageName) -> None:
    (replica,) = replica_processes(stage, app=APP)
    kill(replica, stage, app=APP)


def _controllers() -> list[psutil.Process]:
    return children_called("ray::ServeController")


def _is_whole_again() -> bool:
    with contextlib.suppress(ray.exceptions.RayError):
        return is_whole(APP)
    return False  # the controller does not answer yet
