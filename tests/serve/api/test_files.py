from __future__ import annotations

import httpx
import pytest

from tests.serve.fakes import FakeGraph


@pytest.mark.parametrize("content_type", ["image/png", "image/jpeg", "image/webp"])
async def test_a_file_with_its_type(client: httpx.AsyncClient, graph: FakeGraph, content_type: str):
    file_id = graph.store.put(b"bytes", content_type)
    response = await client.get(f"/v1/files/{file_id}")
    assert response.status_code == 200
    assert response.content == b"bytes"
    assert response.headers["content-type"] == content_type
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "immutable" in response.headers["cache-control"]


@pytest.mark.parametrize("file_id", ["0" * 32, "nothing", "..", "%2e%2e", "a%00b"])
async def test_no_such_file(client: httpx.AsyncClient, file_id: str):
    response = await client.get(f"/v1/files/{file_id}")
    assert response.status_code == 404
    assert response.json()["error"]["code"] in ("file_not_found", "not_found")
