"""Works move when replicas differ by much, and only then."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import pytest
import ray.exceptions

from deployments.routing import balance
from deployments.routing.backlog import Backlogs, Report
from deployments.routing.balance import GAP_S, Balance, keep_s
from pipelines.engine.costs.surface import CostSurface

SURFACE = CostSurface(base=0.01, per_token=0.001)


def test_even_replicas_and_short_queues_keep_what_they_have() -> None:
    assert keep_s([]) is None
    assert keep_s([50.0]) is None
    assert keep_s([0.0, GAP_S]) is None
    assert keep_s([40.0, 55.0]) is None


def test_a_replica_that_came_late_gets_its_share() -> None:
    assert keep_s([30.0, 0.0]) == 15.0
    assert keep_s([8.0, 8.0, 0.5]) == 5.5


class Denoisers:
    """A handle to two replicas, of which one may be lost."""

    def __init__(self, error: Exception | None = None) -> None:
        self.kept: asyncio.Queue[float] = asyncio.Queue()
        self._error = error

    def broadcast(self, method: str, kept: float) -> Denoisers:
        assert method == "rebalance"
        self.kept.put_nowait(kept)
        if self._error is not None:
            raise self._error
        return self

    async def results_async(self, *, timeout_s: float, return_exceptions: bool) -> list[Any]:
        assert timeout_s > 0
        assert return_exceptions
        return [3, ray.exceptions.RayActorError()]


def heard(*queued_s: float) -> Backlogs:
    now = time.time()
    backlogs = Backlogs()
    reports = {str(i): Report(now, seconds, 16, SURFACE) for i, seconds in enumerate(queued_s)}
    backlogs.heard(dict(reports), now)
    return backlogs


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balance, "REPORT_EVERY_S", 0.01)
    monkeypatch.setattr(balance, "_SETTLE_S", 0.01)
    now = time.time()  # reports do not age, however long a test takes
    monkeypatch.setattr(time, "time", lambda: now)


async def asked(denoisers: Denoisers) -> float:
    async with asyncio.timeout(60):
        return await denoisers.kept.get()


@pytest.mark.parametrize("error", [None, ray.exceptions.RayActorError()])
async def test_replicas_are_asked_for_their_surplus_while_works_are_under_way(
    error: Exception | None,
) -> None:
    denoisers = Denoisers(error)
    kept = Balance(heard(60.0, 0.0), cast(Any, denoisers))
    with kept.kept(), kept.kept():
        assert await asked(denoisers) == pytest.approx(30.0)
        await asked(denoisers)
    denoisers.kept = asyncio.Queue()
    await asyncio.sleep(0.05)
    assert denoisers.kept.empty()
    with kept.kept():
        await asked(denoisers)


async def test_even_replicas_are_not_asked() -> None:
    denoisers = Denoisers()
    with Balance(heard(6.0, 6.5), cast(Any, denoisers)).kept():
        await asyncio.sleep(0.1)
    assert denoisers.kept.empty()
