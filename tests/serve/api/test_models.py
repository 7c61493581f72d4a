from __future__ import annotations

import httpx

from tests.serve.conftest import ClientOf
from tests.serve.fakes import SPEC, services


async def test_the_list_holds_the_served_model(client_of: ClientOf):
    client = client_of(services(served_model_name="acme/shapes"))
    body = (await client.get("/v1/models")).json()
    assert body["object"] == "list"
    (card,) = body["data"]
    assert (card["id"], card["object"], card["created"]) == ("acme/shapes", "model", SPEC.created)
    assert card["name"] == SPEC.name
    assert card["defaults"]["size"] == "64x64"
    assert card["defaults"]["quality_steps"] == {"low": 12, "medium": 12, "high": 18}
    assert card["defaults"]["skipping_qualities"] == ["low"]
    assert (card["defaults"]["deadline_ms"], card["defaults"]["priority"]) == (30_000, 0)
    assert card["limits"]["max_deadline_ms"] == 600_000
    assert card["limits"]["max_side"] == 512
    assert card["limits"]["side_multiple"] == 16


async def test_one_model_by_both_of_its_names(client_of: ClientOf):
    client = client_of(services(served_model_name="acme/shapes"))
    by_alias = await client.get("/v1/models/acme/shapes")
    by_name = await client.get(f"/v1/models/{SPEC.name}")
    assert by_alias.status_code == by_name.status_code == 200
    assert by_alias.json() == by_name.json()


async def test_another_model_is_not_found(client: httpx.AsyncClient):
    response = await client.get("/v1/models/gpt-image-1")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
