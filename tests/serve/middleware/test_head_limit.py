from __future__ import annotations

import gc
import tracemalloc

import httpx
import pytest

from serve.middleware.head_limit import header_bytes
from tests.serve.conftest import ClientOf
from tests.serve.fakes import FakeGraph, services

URL = "/v1/images/generations"
LIMIT = 4096


@pytest.fixture
def client(graph: FakeGraph, client_of: ClientOf) -> httpx.AsyncClient:
    return client_of(services(graph, limits={"max_header_bytes": LIMIT}))


def filled(client: httpx.AsyncClient, size: int) -> httpx.Headers:
    """Headers that count `size` bytes with those that the client adds."""
    asked = client.build_request("POST", URL, json={"prompt": "a"}, headers={"x-fill": ""})
    return httpx.Headers({"x-fill": "x" * (size - header_bytes(asked.headers.raw))})


async def test_at_the_limit_and_one_more(client: httpx.AsyncClient, graph: FakeGraph):
    answer = await client.post(URL, json={"prompt": "a"}, headers=filled(client, LIMIT))
    assert answer.status_code == 200
    answer = await client.post(URL, json={"prompt": "a"}, headers=filled(client, LIMIT + 1))
    assert answer.status_code == 431
    assert answer.json()["error"]["code"] == "headers_too_large"
    assert answer.headers["x-request-id"]
    assert len(graph.jobs) == 1


async def test_many_tiny_headers_are_not_free(client: httpx.AsyncClient):
    answer = await client.get("/healthz", headers=[(f"x-{i}", "") for i in range(LIMIT // 32)])
    assert answer.status_code == 431


async def test_a_long_path_or_query(client: httpx.AsyncClient):
    for path in ("/" + "x" * LIMIT, "/traces?tenant=" + "x" * LIMIT, "/" + "%2e" * LIMIT):
        answer = await client.get(path)
        assert answer.status_code == 414, path[:20]
        assert answer.json()["error"]["code"] == "uri_too_long"


async def test_refused_headers_leave_nothing_behind(client_of: ClientOf, graph: FakeGraph):
    """40 of 5 MB each cost 270 MB that stayed, when traces kept them."""
    given = services(graph)
    client = client_of(given)
    tracemalloc.start()
    try:
        for _ in range(20):
            headers = {"user-agent": "x" * 500_000, "x-request-id": "y" * 500_000}
            answer = await client.post(URL, json={"prompt": "a"}, headers=headers)
            assert answer.status_code == 431
            assert len(answer.headers["x-request-id"]) < 64
        del headers, answer
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(given.traces) == 0
    assert kept < 2_500_000  # one or two may still be on their way out


async def test_what_a_trace_says_of_a_client_is_cut(client_of: ClientOf, graph: FakeGraph):
    given = services(graph)
    headers = {"user-agent": "u" * 20_000, "host": "h" * 5_000}
    await client_of(given).post("/" + "p" * 9_000, json={}, headers=headers)
    (trace,) = given.traces.latest()
    values = [value for value in trace.root.attributes.values() if isinstance(value, str)]
    assert max(map(len, values)) == 256
