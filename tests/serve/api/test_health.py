from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from serve.api import health
from tests.serve.conftest import ClientOf
from tests.serve.fakes import FakeGraph, services

ALIVE = pytest.mark.parametrize("path", ["/healthz", "/liveness"])
READY = pytest.mark.parametrize("path", ["/readyz", "/health"])


@ALIVE
async def test_alive(client_of: ClientOf, path: str):
    """Also while no stage is ready: what restarts those that are not alive must not restart it."""
    client = client_of(services(FakeGraph(stages={"TextEncoder": False})))
    response = await client.get(path)
    assert (response.status_code, response.json()) == (200, {"status": "alive"})


@READY
async def test_ready_when_every_stage_is(client_of: ClientOf, path: str):
    stages = {"TextEncoder": True, "Denoiser": True}
    response = await client_of(services(FakeGraph(stages=stages))).get(path)
    assert response.status_code == 200
    assert response.json() == {"status": "ready", "stages": stages}


@READY
async def test_not_ready_names_the_stage(client_of: ClientOf, path: str):
    stages = {"TextEncoder": True, "Denoiser": False}
    response = await client_of(services(FakeGraph(stages=stages))).get(path)
    assert response.status_code == 503
    assert response.json() == {"status": "starting", "stages": stages}
    assert response.headers["retry-after"] == "1"


async def test_a_graph_that_does_not_answer(client_of: ClientOf, monkeypatch: pytest.MonkeyPatch):
    class Silent(FakeGraph):
        async def ready(self) -> Mapping[str, bool]:
            await asyncio.Event().wait()
            return {}

    monkeypatch.setattr(health, "_READY_TIMEOUT_S", 0.05)
    response = await client_of(services(Silent())).get("/readyz")
    assert response.status_code == 503
