"""How far images are, as a listener of the graph hears it: once each, and never backwards."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorDiedError

import deployments.graph.attempts
from deployments.graph.draining_graph import DrainingGraph
from deployments.graph.graph import STEP_EVERY_S, Graph
from deployments.graph.image_graph import ImageGraph
from deployments.graph.listening.events import Phase, Progress
from deployments.graph.listening.listener import Broadcast, unheard
from deployments.graph.listening.progress_reporter import ProgressReporter
from deployments.graph.remote_graph import RemoteGraph
from deployments.wire.packed import PackedCheckpoint, PackedTensor
from pipelines.contracts import Cut, FinishSpec, GenerationJob, GenerationParams, LatentJob
from pipelines.tracing.open_spans import OpenSpan
from tests.deployments.fakes import FakeStages
from tests.listeners import Heard

PARAMS: dict[str, Any] = {
    "prompt": "a cat",
    "height": 64,
    "width": 32,
    "num_inference_steps": 6,
    "guidance_scale": 3.5,
    "seed": 10,
    "max_sequence_length": 16,
}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployments.graph.attempts, "RETRY_PAUSE_S", 0.0)


async def heard_of(stages: FakeStages, **changes: Any) -> list[Progress]:
    heard = Heard()
    params = GenerationParams(**{**PARAMS, **changes})
    job = GenerationJob(request_id="req", params=params, finish=FinishSpec(seed=10))
    await Graph(stages.handles()).generate(job, OpenSpan("test"), heard)
    assert heard.progress == heard.events  # it wanted nothing else
    return heard.progress


def steps(heard: list[Progress], image: int = 0) -> list[tuple[str, int]]:
    return [(str(each.phase), each.step) for each in heard if each.image == image]


WHOLE = [
    ("encode", 0),
    ("denoise", 2),
    ("denoise", 4),
    ("denoise", 6),
    ("decode", 6),
    ("finish", 6),
    ("done", 6),
]


async def test_each_image_goes_through_its_phases_and_steps() -> None:
    heard = await heard_of(FakeStages(), num_images=2)
    assert steps(heard, 0) == steps(heard, 1) == WHOLE
    assert {each.num_steps for each in heard} == {6}


async def test_steps_between_checkpoints_are_told_once_each() -> None:
    heard = await heard_of(FakeStages(tells_steps=True, checkpoint_every=3))
    assert [step for phase, step in steps(heard) if phase == "denoise"] == [1, 2, 3, 4, 5, 6]
    assert {each.num_steps for each in heard} == {6}


async def test_what_lost_replicas_had_done_is_told_once() -> None:
    """The second replica goes on from step 4, the second decoder decodes again."""
    decodes: list[LatentJob] = []

    async def die(job: LatentJob, step: int) -> None:
        if step == 5 and len(stages.started) == 1:
            raise ActorDiedError

    async def die_once(job: LatentJob) -> None:
        decodes.append(job)
        if len(decodes) == 1:
            raise ActorDiedError

    stages = FakeStages(on_step=die, on_decode=die_once)
    assert steps(await heard_of(stages)) == WHOLE
    assert (len(stages.started), stages.decoded) == (2, 2)


def test_steps_are_forwards_and_a_cut_leaves_fewer() -> None:
    heard = Heard()
    params = GenerationParams(**{**PARAMS, "num_inference_steps": 10})
    progress = ProgressReporter(3, params, heard)
    latents = PackedTensor(values=np.zeros(1), dtype="float32")
    progress.checkpointed(PackedCheckpoint(step=5, latents=latents))
    progress.checkpointed(PackedCheckpoint(step=6, latents=latents, cuts=(Cut(6, 8),)))
    progress.stepped(6, 8)
    progress.stepped(4, 10)
    progress.denoised(8)
    assert [(each.step, each.num_steps) for each in heard.progress] == [
        (5, 10),
        (6, 8),
        (8, 8),
        (8, 8),
    ]
    assert {each.image for each in heard.progress} == {3}
    skipping = GenerationParams(**{**PARAMS, "num_inference_steps": 10, "skips_steps": True})
    ProgressReporter(0, skipping, heard).enters(Phase.ENCODE)
    assert heard.progress[-1].num_steps < 10


def test_who_comes_later_hears_how_far_it_is_and_who_has_left_nothing() -> None:
    broadcast = Broadcast()
    first, second = Heard(), Heard()
    one = ProgressReporter(0, GenerationParams(**PARAMS), broadcast)
    with broadcast.heard_by(first):
        one.stepped(2, 6)
        one.stepped(4, 6)
        with broadcast.heard_by(second):
            one.denoised(6)
    one.enters(Phase.DONE)
    assert [each.step for each in first.progress] == [2, 4, 6, 6]
    assert [each.step for each in second.progress] == [4, 6, 6]


async def test_steps_between_checkpoints_are_asked_for_only_where_somebody_listens() -> None:
    job = GenerationJob(
        request_id="req", params=GenerationParams(**PARAMS), finish=FinishSpec(seed=10)
    )
    stages, broadcast = FakeStages(), Broadcast()
    graph = Graph(stages.handles())
    await graph.generate(job)
    with broadcast.heard_by(unheard):
        await graph.generate(job, OpenSpan("test"), broadcast)
    with broadcast.heard_by(Heard()):
        await graph.generate(job, OpenSpan("test"), broadcast)
    assert stages.told_every_s == [None, None, STEP_EVERY_S]


@pytest.mark.parametrize("graph", [Graph, DrainingGraph, RemoteGraph])
def test_graphs_stand_side_by_side(graph: type[Any]) -> None:
    """Each takes what `ImageGraph` promises to take, by the same names."""
    for name, method in inspect.getmembers(ImageGraph, inspect.isfunction):
        if not name.startswith("_"):
            theirs = inspect.signature(getattr(graph, name)).parameters
            assert list(theirs) == list(inspect.signature(method).parameters), name
