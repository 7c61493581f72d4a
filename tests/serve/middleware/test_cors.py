from __future__ import annotations

import httpx
import pytest

from tests.serve.conftest import ClientOf
from tests.serve.fakes import FakeGraph, services

URL = "/v1/images/generations"
PAGE = {"origin": "https://app.example.com"}
ASKS = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-lang",
}


@pytest.fixture
def allowing(graph: FakeGraph, client_of: ClientOf) -> httpx.AsyncClient:
    cors = {"allow_origins": ["https://app.example.com"]}
    return client_of(services(graph, cors=cors, limits={"max_header_bytes": 2048}))


async def test_off_by_default(client: httpx.AsyncClient):
    asked = await client.options(URL, headers={**PAGE, **ASKS})
    assert asked.status_code == 405
    answer = await client.post(URL, json={"prompt": "a"}, headers=PAGE)
    assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_a_browser_may_ask_and_send(allowing: httpx.AsyncClient, graph: FakeGraph):
    asked = await allowing.options(URL, headers={**PAGE, **ASKS})
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == PAGE["origin"]
    assert "POST" in asked.headers["access-control-allow-methods"]
    assert "x-stainless-lang" in asked.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in asked.headers
    file_id = graph.store.put(b"bytes", "image/png")
    answers = [
        await allowing.post(URL, json={"prompt": "a"}, headers=PAGE),
        await allowing.get(f"/v1/files/{file_id}", headers=PAGE),
        await allowing.post(URL, json={}, headers=PAGE),
        await allowing.get("/nothing", headers=PAGE),
        await allowing.get("/healthz", headers={**PAGE, "x-fill": "x" * 3000}),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 400, 404, 431]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == PAGE["origin"]
        assert "x-request-id" in answer.headers["access-control-expose-headers"]
        assert "Origin" in answer.headers["vary"]


async def test_another_origin_may_not(allowing: httpx.AsyncClient):
    other = {"origin": "https://evil.example"}
    asked = await allowing.options(URL, headers={**other, **ASKS})
    assert asked.status_code == 400
    assert "origin" in asked.json()["error"]["message"]
    assert "access-control-allow-origin" not in asked.headers
    answer = await allowing.post(URL, json={"prompt": "a"}, headers=other)
    assert "access-control-allow-origin" not in answer.headers


async def test_all_origins(client_of: ClientOf):
    client = client_of(services(cors={"allow_origins": "*"}))
    answer = await client.post(URL, json={"prompt": "a"}, headers=PAGE)
    assert answer.headers["access-control-allow-origin"] == "*"
