"""Files of this server as pictures: their owner's, by id or link; nobody else's."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.serve.api.pictures.conftest import served
from tests.serve.api.pictures.samples import picture
from tests.serve.conftest import ClientOf
from tests.serve.fakes import FakeGraph

EDITS, GENERATIONS = "/v1/images/edits", "/v1/images/generations"


@pytest.fixture(autouse=True)
def drawn_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """What files hold."""
    monkeypatch.setattr("tests.serve.fakes.PIXELS", picture(64, 64))


async def link(client: httpx.AsyncClient, user: str | None) -> str:
    """Of an image that `user` has drawn."""
    body = {"prompt": "x", "response_format": "url", "user": user}
    return (await client.post(GENERATIONS, json=body)).json()["data"][0]["url"]


async def edited(client: httpx.AsyncClient, image: Any, user: str | None) -> httpx.Response:
    return await client.post(EDITS, json={"prompt": "x", "image": image, "user": user})


async def test_a_result_is_the_next_input(editing: httpx.AsyncClient, graph: FakeGraph):
    url = await link(editing, "bob")
    file_id = url.rpartition("/")[2]
    for image in (url, file_id, f"/v1/files/{file_id}", {"file_id": file_id}, [{"image_url": url}]):
        answer = await edited(editing, image, "bob")
        assert answer.status_code == 200, answer.text
        source = graph.jobs[-1].recipes[0].source
        assert source is not None
        assert (source.file_id, source.data) == (file_id, None)
    form = {"prompt": "x", "user": "bob", "image": url}
    answer = await editing.post(EDITS, files={name: (None, value) for name, value in form.items()})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("user", ["alice", None])
async def test_anothers_is_not_there(
    editing: httpx.AsyncClient, graph: FakeGraph, user: str | None
):
    url = await link(editing, "bob")
    count = len(graph.jobs)
    for image in (url, url.rpartition("/")[2]):
        answer = await edited(editing, image, user)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "file_not_found")
    assert len(graph.jobs) == count
    # Whoever has the link may look at it, as before.
    assert (await editing.get(url)).status_code == 200


async def test_a_file_of_nobody_is_anybodys_who_knows_it(editing: httpx.AsyncClient):
    url = await link(editing, None)
    for user in ("alice", None):
        assert (await edited(editing, url, user)).status_code == 200


async def test_one_that_has_expired(editing: httpx.AsyncClient, graph: FakeGraph):
    url = await link(editing, "bob")
    graph.store.delete(url.rpartition("/")[2])
    answer = await edited(editing, url, "bob")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "file_not_found")


async def test_a_link_of_another_server_is_a_url(editing: httpx.AsyncClient):
    url = await link(editing, "bob")
    elsewhere = url.replace("sluice.test", "elsewhere.test")
    error = (await edited(editing, elsewhere, "bob")).json()["error"]
    assert "fetches no pictures from elsewhere" in error["message"]


async def test_a_gateway_says_whose(client_of: ClientOf, graph: FakeGraph):
    client = client_of(served(graph, tenants={"header": "x-tenant"}))
    body = {"prompt": "x", "response_format": "url", "user": "whoever"}
    answer = await client.post(GENERATIONS, json=body, headers={"x-tenant": "a"})
    image = answer.json()["data"][0]["url"]
    for tenant, status in (("a", 200), ("b", 404)):
        body = {"prompt": "x", "image": image, "user": "whoever"}
        answer = await client.post(EDITS, json=body, headers={"x-tenant": tenant})
        assert answer.status_code == status, answer.text
