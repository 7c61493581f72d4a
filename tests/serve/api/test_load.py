from __future__ import annotations

import asyncio

from serve.http import create_app
from serve.load.server_load import ServerLoad
from tests.serve.conftest import ClientOf
from tests.serve.fakes import FakeGraph, services

GENERATIONS = "/v1/images/generations"


async def test_what_was_asked_for_lately(client_of: ClientOf):
    given = services()
    client = client_of(given)
    assert (await client.post(GENERATIONS, json={"prompt": "a cat"})).status_code == 200
    late = {"prompt": "a cat", "deadline_ms": 60_000}
    assert (await client.post(GENERATIONS, json=late)).status_code == 200
    assert (await client.post(GENERATIONS, json={"prompt": "a", "n": 99})).status_code == 400
    answer = await client.get("/load")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    load = ServerLoad.model_validate_json(answer.content)
    assert load.model == given.settings.model_id
    assert load.requests.outcomes == {"ok": 2, "invalid_value": 1}
    assert load.deadlines.met == 2
    assert (load.deployments, load.denoisers, load.jobs) == (None, None, None)


async def test_who_is_in_flight_is_told_by_name_only_behind_a_gateway(client_of: ClientOf):
    for tenants, name in (({}, "user-"), ({"header": "x-tenant"}, "atelier")):
        graph = FakeGraph(hangs=True)
        client = client_of(services(graph, tenants=tenants))
        body = {"prompt": "a cat", "n": 2, "user": "atelier"}
        headers = {"x-tenant": "atelier"}
        drawing = asyncio.create_task(client.post(GENERATIONS, json=body, headers=headers))
        await graph.entered.acquire()
        (tenant,) = (await client.get("/load")).json()["tenants"]
        assert tenant["tenant"].startswith(name)
        assert (tenant["images_in_flight"], tenant["queued_jobs"]) == (2, None)
        graph.go.set()
        await drawing


async def test_it_can_be_switched_off(client_of: ClientOf):
    given = services(metrics={"load": False})
    answer = await client_of(given).get("/load")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert "/load" not in create_app(given).openapi()["paths"]
