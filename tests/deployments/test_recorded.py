"""What the graph, its helpers and the stages' edges record of what seldom happens."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from ray.exceptions import ActorDiedError

from deployments.graph import attempts
from deployments.graph.graph import Graph
from deployments.lifecycle.boundary import Boundary
from deployments.metrics import declared as metrics
from deployments.routing import balance
from deployments.routing.balance import Balance
from deployments.storage.store import LocalStore
from pipelines.contracts import LatentJob
from pipelines.errors import DegenerateImage, StageFailed
from tests.deployments.driver import make_job
from tests.deployments.fakes import FakeStages, GoesAway
from tests.deployments.graph.test_waking import FIVE, JOB, App, turns
from tests.deployments.routing.test_balance import Denoisers, heard
from tests.recorder import Recorder, recorded

__all__ = ["recorded"]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "RETRY_PAUSE_S", 0.0)
    monkeypatch.setattr(balance, "REPORT_EVERY_S", 0.01)


async def _generate(stages: FakeStages, **changes: Any) -> None:
    await Graph(stages.handles()).generate(make_job(prompt="a cat", seed=10, **changes))


async def test_a_denoiser_that_dies_is_a_lost_call_and_a_resumed_image(recorded: Recorder) -> None:
    async def die(job: LatentJob, step: int) -> None:
        if step in (1, 7) and stages.steps.count((job.sampling.seed, step)) == 1:
            raise ActorDiedError()

    stages = FakeStages(on_step=die, checkpoint_every=3)
    await _generate(stages, steps=10)
    assert recorded.total(metrics.LOST_CALLS, stage="Denoiser") == 2
    assert recorded.total(metrics.RESUMED_IMAGES) == 1  # at first there was no checkpoint
    assert recorded.total(metrics.MOVED_IMAGES) == 0


async def test_a_decoder_that_dies_is_a_lost_call_of_whom_ray_blames(recorded: Recorder) -> None:
    async def die_once(job: LatentJob) -> None:
        if stages.decoded == 1:
            raise ActorDiedError()

    stages = FakeStages(on_decode=die_once)
    await _generate(stages)
    assert recorded.total(metrics.LOST_CALLS, stage="SafetyClassifier") == 1  # who waited for it


async def test_a_denoiser_that_goes_away_moves_its_image(recorded: Recorder) -> None:
    async def go_at_five(job: LatentJob, step: int) -> None:
        if step == 5 and len(stages.started) == 1:
            raise GoesAway

    stages = FakeStages(on_step=go_at_five)
    await _generate(stages, steps=10)
    assert recorded.total(metrics.MOVED_IMAGES) == 1
    assert recorded.total(metrics.RESUMED_IMAGES) == 1
    assert recorded.labels(metrics.LOST_CALLS) == []


async def test_images_that_were_shed_are_counted(recorded: Recorder) -> None:
    denoisers = Denoisers()
    with Balance(heard(60.0, 0.0), cast(Any, denoisers)).kept():
        async with asyncio.timeout(60):
            while not recorded.total(metrics.SHED_IMAGES):  # noqa: ASYNC110  it is a sum
                await asyncio.sleep(0)
    assert recorded.total(metrics.SHED_IMAGES) == 3


async def test_each_stage_that_is_woken_is_one_cold_start(recorded: Recorder) -> None:
    app = App()
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(app.graph.generate(JOB))
        await turns()
        app.wake(*FIVE)
    for stage in FIVE:
        assert recorded.total(metrics.COLD_STARTS, stage=str(stage)) == 1


def test_only_failures_that_nobody_foresaw_count(recorded: Recorder) -> None:
    boundary = Boundary("VaeDecoder")
    for error in (RuntimeError("x"), DegenerateImage("black"), KeyError("y")):
        with pytest.raises((StageFailed, DegenerateImage)), boundary.call():
            raise error
    assert recorded.total(metrics.STAGE_FAILURES, stage="VaeDecoder") == 2


def test_files_that_leave_before_their_time_are_counted(recorded: Recorder, tmp_path: Path) -> None:
    store = LocalStore(tmp_path, ttl_s=100.0, max_bytes=1000)
    for _ in range(2):
        store.put(b"x" * 400, "image/png")
    assert recorded.total(metrics.EVICTED_FILES) == 0
    store.put(b"x" * 400, "image/png")
    assert recorded.total(metrics.EVICTED_FILES) == 1
