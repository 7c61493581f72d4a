"""Requests that are under way when their replica, or the whole application, goes."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import ray.serve

import deployments.graph.draining_graph
from deployments.graph.draining_graph import DrainingGraph
from deployments.stages.local_handle import LocalHandle
from pipelines.contracts import LatentJob
from tests.deployments.driver import make_job
from tests.deployments.fakes import FakeStages

STAGES = ("text_encoder", "denoiser", "vae_decoder", "safety", "finisher")


@dataclass
class HeldStages(FakeStages):
    """Stages that count how often each is held, by its key, and hold for no time."""

    holds: Counter[str] = field(default_factory=Counter)

    def handles(self) -> dict[str, Any]:
        return {key: _Handle(self, key) for key in STAGES}


class _Handle(LocalHandle):
    def __init__(self, stages: HeldStages, key: str) -> None:
        super().__init__(stages)
        self._stages, self._key = stages, key

    def options(self, *, method_name: str = "", **options: Any) -> LocalHandle:
        if method_name != "hold":
            return super().options(method_name=method_name, **options)

        async def hold() -> None:
            self._stages.holds[self._key] += 1

        return LocalHandle(SimpleNamespace(hold=hold), "hold")


@pytest.fixture
def goes(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Makes this replica go away, with or without its application."""
    signs: list[bool] = []
    name = SimpleNamespace(to_full_id_str=lambda: "SERVE_REPLICA::a#Ingress#1")
    context = SimpleNamespace(app_name="a", replica_id=name)
    monkeypatch.setattr(ray.serve, "get_replica_context", lambda: context)
    monkeypatch.setattr(deployments.graph.draining_graph, "_LOOK_EVERY_S", 0.001)
    monkeypatch.setattr(deployments.graph.draining_graph, "HOLD_S", 0.003)
    monkeypatch.setattr(
        deployments.graph.draining_graph, "replica_flag", lambda: lambda: bool(signs)
    )
    monkeypatch.setattr(
        deployments.graph.draining_graph, "is_deleted", lambda app: app == "a" and signs[0]
    )
    return signs.append


async def test_stages_are_held_as_long_as_there_are_requests(
    goes: Callable[[bool], None],
) -> None:
    async def until_held_again(_: LatentJob) -> None:
        goes(True)
        async with asyncio.timeout(60):
            while not all(stages.holds[key] >= 3 for key in STAGES):  # noqa: ASYNC110
                await asyncio.sleep(0)

    stages = HeldStages(on_denoise=until_held_again)
    graph = DrainingGraph(stages.handles())
    results = await asyncio.gather(graph.generate(make_job("a")), graph.generate(make_job("b")))
    assert [len(result.images) for result in results] == [1, 1]
    held = stages.holds.copy()
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert stages.holds == held


async def test_nothing_is_held_on_to_where_other_replicas_go_on(
    goes: Callable[[bool], None],
) -> None:
    stages = HeldStages()
    graph = DrainingGraph(stages.handles())

    async def ask_and_look(_: LatentJob) -> None:
        goes(False)
        watch = graph._watch
        assert watch is not None
        await watch

    stages.on_denoise = ask_and_look
    assert len((await graph.generate(make_job())).images) == 1
    held = stages.holds.copy()
    await asyncio.sleep(0.01)
    assert stages.holds == held


async def test_stages_are_held_while_the_controller_has_not_answered(
    goes: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    are_held = threading.Event()
    monkeypatch.setattr(
        deployments.graph.draining_graph, "is_deleted", lambda _: are_held.wait(timeout=60)
    )

    async def until_held_again(_: LatentJob) -> None:
        goes(True)
        async with asyncio.timeout(60):
            while not all(stages.holds[key] >= 3 for key in STAGES):  # noqa: ASYNC110
                await asyncio.sleep(0)
        are_held.set()

    stages = HeldStages(on_denoise=until_held_again)
    assert len((await DrainingGraph(stages.handles()).generate(make_job())).images) == 1


async def test_there_is_nothing_to_watch_outside_of_a_replica() -> None:
    stages = HeldStages()
    graph = DrainingGraph(stages.handles())

    async def wait_for_watch(_: LatentJob) -> None:
        assert graph._watch is not None
        await graph._watch

    stages.on_denoise = wait_for_watch
    assert len((await graph.generate(make_job())).images) == 1
    assert graph._watch is None
