"""What is asked of a request under way, and who hears of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import RayServeException

import deployments.graph.attempts
import deployments.graph.steering.relay
from deployments.graph.graph import Graph
from deployments.graph.steering.steering import NO_CONTROLS, Controls, Steering
from deployments.stages.local_handle import LocalHandle
from pipelines.contracts import LatentJob
from pipelines.tracing.open_spans import OpenSpan
from tests.deployments.driver import make_job
from tests.deployments.fakes import FakeStages
from tests.listeners import Heard

JOB = make_job(prompt="a cat", seed=10, steps=6, num_images=2)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployments.graph.attempts, "RETRY_PAUSE_S", 0.0)
    monkeypatch.setattr(deployments.graph.steering.relay, "_FIRST_PAUSE_S", 0.001)


def test_followers_hear_of_each_change_once() -> None:
    steering, heard = Steering(), []

    def changed() -> None:
        heard.append(steering.controls)

    assert steering.controls == Controls(keep=False, previews=None)
    steering.previews(True)
    with steering.followed_by(changed):
        steering.previews(True)
        steering.keep()
        steering.keep()
        steering.previews(False)
    steering.previews(True)
    assert heard == [Controls(keep=True, previews=True), Controls(keep=True, previews=False)]
    assert steering.controls == Controls(keep=True, previews=True)
    assert Steering(Controls(keep=True)).controls.keep
    steering.ask(NO_CONTROLS)
    assert steering.controls == Controls(keep=True, previews=None)  # what is kept is kept


async def test_images_that_are_kept_end_with_their_next_step() -> None:
    steering = Steering()

    async def keep(job: LatentJob, step: int) -> None:
        if step == 3:
            steering.keep()
            while not stages.wished[job.group].keep:
                await stages.steered.acquire()

    stages = FakeStages(on_step=keep)
    result = await Graph(stages.handles()).generate(JOB, steering=steering)
    assert [image.steps_run for image in result.images] == [4, 4]
    # The file says how it is drawn again.
    assert all('"step_cuts"%3A [[3%2C 4]]' in image.sha256 for image in result.images)
    assert result.usage.megapixel_steps == sum(each.megapixel_steps for each in result.images)


async def test_what_was_asked_before_it_began_holds_for_every_replica() -> None:
    """The first is lost before it has stepped; the second is told with the call."""

    async def die(job: LatentJob) -> None:
        if len(stages.started) == 1:
            raise ActorDiedError

    steering, stages = Steering(), FakeStages(on_denoise=die)
    steering.keep()
    result = await Graph(stages.handles()).generate(make_job(steps=6), steering=steering)
    assert [image.steps_run for image in result.images] == [2]
    assert len(stages.started) == 2


async def test_replicas_are_told_until_they_have_heard_of_it() -> None:
    """What does not get through is said again, and so is what came before the work."""
    steering, failures = Steering(), [RayServeException("no replica yet"), TimeoutError()]

    class Denoiser(LocalHandle):
        def broadcast(self, method_name: str, *args: Any, **kwargs: Any) -> Any:
            if failures:
                raise failures.pop()
            return super().broadcast(method_name, *args, **kwargs)

    async def keep(job: LatentJob, step: int) -> None:
        if step == 2:
            steering.keep()
            while not stages.wished[job.group].keep:
                await stages.steered.acquire()

    stages = FakeStages(on_step=keep)
    handles = {**stages.handles(), "denoiser": Denoiser(stages)}
    result = await Graph(handles).generate(make_job(steps=6), steering=steering)
    assert [image.steps_run for image in result.images] == [3]
    assert failures == []


async def test_nobody_is_told_anything_that_was_not_asked_nor_after_the_end() -> None:
    steering, stages = Steering(), FakeStages()
    await Graph(stages.handles()).generate(JOB, steering=steering)
    steering.keep()
    for _ in range(10):
        await asyncio.sleep(0)
    assert set(stages.wished.values()) == {NO_CONTROLS}
    assert stages.steered.locked()


async def test_previews_are_asked_for_by_who_wants_to_see_them() -> None:
    stages, heard = FakeStages(), Heard(wants_previews=True)
    graph = Graph(stages.handles())
    await graph.generate(JOB, OpenSpan("test"), heard)
    assert stages.previewed == [True, True]
    shown = [(each.step, each.num_steps) for each in heard.previews if each.image == 1]
    assert shown == [(step, 6) for step in range(1, 6)]
    first = heard.previews[0]
    assert (first.data, first.media_type) == (b"a picture", "image/jpeg")
    assert (first.width, first.height) == (64, 64)
    await graph.generate(JOB, OpenSpan("test"), Heard())
    assert stages.previewed[2:] == [False, False]


async def test_previews_are_switched_on_while_it_is_drawn() -> None:
    steering, heard = Steering(), Heard()

    async def look(job: LatentJob, step: int) -> None:
        if step == 3:
            heard.wants_previews = True
            steering.previews(True)
            while stages.wished[job.group].previews is None:
                await stages.steered.acquire()

    stages = FakeStages(on_step=look)
    graph = Graph(stages.handles())
    await graph.generate(make_job(steps=6), OpenSpan("test"), heard, steering=steering)
    assert stages.previewed == [False]
    assert [each.step for each in heard.previews] == [3, 4, 5]
