"""Every answer that the document has can be got, and is as it says."""

from __future__ import annotations

import httpx
import pytest

from serve.http import create_app
from serve.middleware import body_time
from tests.serve.api.openapi.document import Documented, check_answer, documented
from tests.serve.api.openapi.provocations import Situation, services
from tests.serve.api.openapi.vendor_provocations import PROVOCATIONS
from tests.serve.conftest import ClientOf
from tests.serve.pages import get_paths

APP = create_app(services(metrics={"route": True}))
DOCUMENT = APP.openapi()
ANSWERS = list(documented(DOCUMENT))


@pytest.mark.parametrize("where", ANSWERS, ids=str)
async def test_what_is_documented_is_answered(
    client_of: ClientOf, monkeypatch: pytest.MonkeyPatch, where: Documented
):
    monkeypatch.setattr(body_time, "GRACE_S", 60.0)
    fitting = [each.run for each in PROVOCATIONS if each.fits(*where)]
    assert fitting, "nothing provokes it"
    check_answer(DOCUMENT, where, await fitting[0](Situation(client_of, where.method, where.path)))


def test_nothing_else_is_provoked():
    for each in PROVOCATIONS:
        assert any(each.fits(*where) for where in ANSWERS), each


def test_there_is_no_answer_of_the_frameworks_own():
    assert not {where for where in ANSWERS if where.status in (405, 422)}
    assert not {name for name in DOCUMENT["components"]["schemas"] if "Validation" in name}


def test_head_is_documented_wherever_get_is():
    for item in DOCUMENT["paths"].values():
        assert ("head" in item) == ("get" in item)
    identifiers = [
        operation["operationId"]
        for item in DOCUMENT["paths"].values()
        for operation in item.values()
    ]
    assert len(set(identifiers)) == len(identifiers)


def test_every_route_for_programs_is_documented():
    pages = {"/", "/docs", "/redoc", "/openapi.json", "/favicon.ico"}
    undescribed = set(get_paths(APP)) - set(DOCUMENT["paths"])
    assert {path for path in undescribed if ":path" not in path} == pages


async def test_the_document_follows_the_limits(client_of: ClientOf):
    given = services()
    client = client_of(given)
    assert await _most_images(client) == 10
    given.take_over(services(limits={"max_images": 3}).settings)
    assert await _most_images(client) == 3


async def _most_images(client: httpx.AsyncClient) -> int:
    document = (await client.get("/openapi.json")).json()
    schema = document["components"]["schemas"]["ImageGenerationRequest"]
    return schema["properties"]["n"]["anyOf"][0]["maximum"]
