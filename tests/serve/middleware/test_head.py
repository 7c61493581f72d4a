from __future__ import annotations

from types import SimpleNamespace

import httpx
import pytest

from deployments.metrics import declared as metrics
from serve.http import create_app
from tests.serve.conftest import ClientOf
from tests.serve.fakes import FakeGraph, services
from tests.serve.pages import filled_paths


async def test_head_wherever_get_is(client_of: ClientOf, graph: FakeGraph):
    given = services(graph, metrics={"route": True})
    client = client_of(given)
    file_id = graph.store.put(b"bytes", "image/png")
    drawn = await client.post("/v1/images/generations", json={"prompt": "a"})
    fill = {"file_id": file_id, "model_id": "test-model", "trace_id": drawn.headers["x-trace-id"]}
    paths = filled_paths(create_app(given), fill)
    assert len(paths) > 10
    volatile = {"x-request-id"}
    for path in paths:
        got, head = await client.get(path), await client.head(path)
        assert head.status_code == got.status_code, path
        assert head.content == b""
        assert {k: v for k, v in head.headers.items() if k not in volatile} == {
            k: v for k, v in got.headers.items() if k not in volatile
        }, path


async def test_head_of_what_only_takes_posts(client: httpx.AsyncClient):
    answer = await client.head("/v1/images/generations")
    assert (answer.status_code, answer.content) == (405, b"")
    assert answer.headers["allow"] == "POST"


async def test_head_of_a_file_returns_no_bytes(
    client: httpx.AsyncClient, graph: FakeGraph, monkeypatch: pytest.MonkeyPatch
):
    counted: list[float] = []
    fake = SimpleNamespace(add=lambda number, **_: counted.append(number))
    monkeypatch.setattr(metrics, "RETURNED_BYTES", fake)
    file_id = graph.store.put(b"bytes", "image/png")
    assert (await client.head(f"/v1/files/{file_id}")).headers["content-length"] == "5"
    assert counted == []
    await client.get(f"/v1/files/{file_id}")
    assert counted == [5]
