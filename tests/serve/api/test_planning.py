"""Whose a request is, by what its body and its headers say."""

from __future__ import annotations

import httpx
import pytest

from tests.serve.fakes import FakeGraph

URL = "/v1/images/generations"


@pytest.mark.parametrize(
    ("fields", "tenant"),
    [
        ({}, ""),
        ({"user": "u"}, "u"),
        ({"safety_identifier": "s"}, "s"),
        ({"user": "u", "safety_identifier": "s"}, "s"),
    ],
)
async def test_the_tenant_of_a_job(
    client: httpx.AsyncClient, graph: FakeGraph, fields: dict[str, str], tenant: str
):
    assert (await client.post(URL, json={"prompt": "x", **fields})).status_code == 200
    assert graph.jobs[0].terms.tenant == tenant
