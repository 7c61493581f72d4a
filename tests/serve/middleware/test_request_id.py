from __future__ import annotations

import httpx
import pytest

from serve.http import create_app
from tests.serve.fakes import services


async def test_a_sane_id_is_taken_and_echoed(client: httpx.AsyncClient):
    response = await client.get("/healthz", headers={"x-request-id": "trace:1/a.b"})
    assert response.headers.get_list("x-request-id") == ["trace:1/a.b"]


@pytest.mark.parametrize("given", ["", "two words", "x" * 129, "caf\xe9", "tab\there"])
async def test_another_id_is_replaced(client: httpx.AsyncClient, given: str):
    headers = [(b"x-request-id", given.encode("latin-1"))]
    (echoed,) = (await client.get("/healthz", headers=headers)).headers.get_list("x-request-id")
    assert echoed.startswith("req-")


async def test_ids_differ(client: httpx.AsyncClient):
    ids = {(await client.get("/healthz")).headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3


async def test_behind_serve_the_proxy_echoes():
    app = create_app(services(), echo_request_id=False)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
        assert "x-request-id" not in (await client.get("/healthz")).headers
