from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.serve.conftest import ClientOf
from tests.serve.fakes import FakeGraph, services

URL = "/v1/images/generations"
LIMIT = 2000


@pytest.fixture
def graph() -> FakeGraph:
    return FakeGraph()


@pytest.fixture
def client(graph: FakeGraph, client_of: ClientOf) -> httpx.AsyncClient:
    return client_of(services(graph, limits={"max_body_bytes": LIMIT}))


def body_of(size: int) -> bytes:
    return b'{"prompt": "' + b"x" * (size - 14) + b'"}'


async def test_at_the_limit(client: httpx.AsyncClient):
    headers = {"content-type": "application/json"}
    response = await client.post(URL, content=body_of(LIMIT), headers=headers)
    assert response.status_code == 200


async def test_an_announced_body_is_not_read(client: httpx.AsyncClient):
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    headers = {"content-type": "application/json", "content-length": str(LIMIT + 1)}
    response = await client.post(URL, content=never(), headers=headers)
    assert response.status_code == 413
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("announced", [None, "12", "-1", "many", "9" * 5000])
async def test_a_streamed_body_is_counted(
    client: httpx.AsyncClient, graph: FakeGraph, announced: str | None
):
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 100
            assert sent <= LIMIT + 200, "it went on reading"
            yield b" " * 100

    headers = {"content-type": "application/json"}
    headers |= {"content-length": announced} if announced else {"transfer-encoding": "chunked"}
    response = await client.post(URL, content=endless(), headers=headers)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"
    assert graph.jobs == []
