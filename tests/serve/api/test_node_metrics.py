from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from serve.http import create_app
from serve.ray_metrics import node_metrics
from serve.settings.settings import Tenants
from serve.tenancy.shown_name import shown_name
from tests.serve.conftest import ClientOf
from tests.serve.fakes import services

TEXT = b"# TYPE ray_sluice_images counter\nray_sluice_images 3.0\n"


def reads(answer: bytes | None) -> Callable[[], Awaitable[bytes | None]]:
    async def read() -> bytes | None:
        return answer

    return read


async def test_off_by_default(client_of: ClientOf):
    given = services()
    given.node_metrics = reads(TEXT)
    answer = await client_of(given).get("/metrics")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert "/metrics" not in create_app(given).openapi()["paths"]


async def test_the_text_of_this_node(client_of: ClientOf):
    given = services(metrics={"route": True})
    given.node_metrics = reads(TEXT)
    answer = await client_of(given).get("/metrics")
    assert (answer.status_code, answer.content) == (200, TEXT)
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "/metrics" in create_app(given).openapi()["paths"]


async def test_names_that_clients_chose_are_not_told(client_of: ClientOf):
    given = services(metrics={"route": True})
    labels = ["anna", 'an\\"na', "none", "other"]
    lines = [f'ray_images{{source="drawn",tenant="{label}"}} 1.0' for label in labels]
    given.node_metrics = reads("\n".join(lines).encode())
    names = [shown_name(name, Tenants()) for name in ("anna", 'an"na')]
    answer = await client_of(given).get("/metrics")
    assert answer.text.splitlines() == [
        f'ray_images{{source="drawn",tenant="{name}"}} 1.0' for name in (*names, "none", "other")
    ]
    behind = services(metrics={"route": True}, tenants={"header": "x-tenant"})
    behind.node_metrics = given.node_metrics
    assert (await client_of(behind).get("/metrics")).text.splitlines() == lines


async def test_an_agent_that_does_not_answer(client_of: ClientOf):
    answer = await client_of(services(metrics={"route": True})).get("/metrics")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")


async def test_an_agent_that_cannot_be_reached(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("serve.ray_metrics._url", lambda: "http://127.0.0.1:1/metrics")
    assert await node_metrics() is None
    assert "metrics of this node cannot be read" in caplog.text
