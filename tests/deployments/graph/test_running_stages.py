"""What the replicas that run would put into a receipt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
from ray.serve.exceptions import DeploymentUnavailableError

from deployments.graph import running_stages
from deployments.graph.running_stages import Running, RunningStages
from deployments.names import StageName
from tests.deployments.receipts import STAGES


class FakePool:
    """The handle of a deployment whose replicas answer as they are told."""

    def __init__(self, *answers: Any, error: Exception | None = None) -> None:
        self.answers = answers
        self.error = error
        self.asked = 0

    def broadcast(self, method: str) -> FakePool:
        assert method == "provenance"
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self

    async def results_async(self, *, timeout_s: float, return_exceptions: bool) -> list[Any]:
        assert timeout_s == running_stages.ASK_TIMEOUT_S
        assert return_exceptions
        return list(self.answers)


async def ask(*pools: FakePool) -> Running:
    return await RunningStages([cast(Any, pool) for pool in pools]).ask()


async def test_each_stage_is_told_once():
    encoder, denoiser, decoder = ((stage,) for stage in STAGES)
    pools = FakePool(encoder, encoder), FakePool(denoiser), FakePool(decoder, decoder, decoder)
    assert await ask(*pools) == Running(STAGES, 0)


async def test_a_pool_that_an_update_mixes():
    old, new = STAGES[1], replace(STAGES[1], weights="d" * 64)
    assert await ask(FakePool((old,), (new,))) == Running((old, new), 0)


async def test_fused_replicas_tell_of_all_stages():
    assert await ask(FakePool(STAGES, STAGES)) == Running(STAGES, 0)


async def test_a_replica_that_does_not_answer():
    assert await ask(FakePool(STAGES, TimeoutError("late"))) == Running(STAGES, 1)
    assert await ask(FakePool(error=TimeoutError("late"))) == Running((), 1)


async def test_a_pool_that_sleeps(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(running_stages, "_HEARS_WITHIN_S", -1.0)
    pool = FakePool(error=DeploymentUnavailableError(cast(Any, StageName.DENOISER)))
    assert await ask(pool, FakePool(STAGES[:1])) == Running(STAGES[:1], 0)
    assert pool.asked == 1
