from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from typing import Any

import pytest

from serve.api import health
from tests.serve.conftest import ClientOf
from tests.serve.fakes import PIXELS, FakeGraph, services

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


async def test_without_a_place_for_files_it_is_degraded_and_serves(client_of: ClientOf):
    graph = FakeGraph(not_stored="a file could not be stored: its disk is full")
    now = [100.0]
    client = client_of(services(graph, now=lambda: now[0]))
    asked = {"prompt": "a cat", "response_format": "url"}
    answer = await client.post("/v1/images/generations", json=asked)
    assert answer.status_code == 200
    (image,) = answer.json()["data"]
    assert base64.b64decode(image["b64_json"]) == PIXELS
    assert "url" not in image
    assert answer.json()["warnings"] == [
        "response_format: image 0 is in b64_json and has no url:"
        " a file could not be stored: its disk is full"
    ]
    now[0] += 5
    ready = await client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json() == {
        "status": "degraded",
        "stages": dict(graph.stages),
        "storage": "a file could not be stored: its disk is full (5 s ago, the last time it was"
        " tried)",
    }
    # One without a link tells nothing of storage; one with a link does.
    graph.not_stored = ""
    await client.post("/v1/images/generations", json={**asked, "response_format": "b64_json"})
    assert (await client.get("/readyz")).json()["status"] == "degraded"
    await client.post("/v1/images/generations", json=asked)
    assert (await client.get("/readyz")).json()["status"] == "ready"


async def test_an_answer_without_its_link_is_not_kept(client_of: ClientOf):
    graph = FakeGraph(not_stored="no")
    kept: dict[str, Any] = {"result_cache.max_bytes": 1 << 20}
    client = client_of(services(graph, **kept))
    asked = {"prompt": "a cat", "seed": 1, "response_format": "url"}
    await client.post("/v1/images/generations", json=asked)
    graph.not_stored = ""
    second = await client.post("/v1/images/generations", json=asked)
    assert second.json()["data"][0]["url"]
    assert len(graph.jobs) == 2
    assert (await client.post("/v1/images/generations", json=asked)).headers["x-sluice-cache"]
