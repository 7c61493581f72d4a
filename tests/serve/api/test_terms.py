from __future__ import annotations

import pytest

from pipelines.errors import InvalidRequest
from serve.api.schemas import parse_request
from serve.api.terms import RequestedTerms, tenant_of
from serve.settings.settings import Tenants

GATEWAY = Tenants(header="x-tenant")


def test_a_deadline_counts_from_the_arrival():
    terms = RequestedTerms(deadline_ms=1500, refuses_late=True, priority=3).terms(
        tenant="t", arrived=100.0
    )
    assert (terms.tenant, terms.deadline, terms.priority) == ("t", 101.5, 3)
    assert terms.refuses_late
    none = RequestedTerms(deadline_ms=None, refuses_late=False, priority=0).terms(
        tenant="", arrived=100.0
    )
    assert none.deadline is None


@pytest.mark.parametrize(
    ("fields", "tenant"),
    [
        ({}, ""),
        ({"user": "u"}, "u"),
        ({"safety_identifier": "s"}, "s"),
        ({"user": "u", "safety_identifier": "s"}, "s"),
    ],
)
def test_without_a_gateway_the_client_says_whose_it_is(fields: dict[str, str], tenant: str):
    assert tenant_of(parse_request({"prompt": "x", **fields}), [], Tenants()) == tenant


def test_with_a_gateway_the_client_says_nothing():
    request = parse_request({"prompt": "x", "user": "somebody else"})
    assert tenant_of(request, ["acme"], GATEWAY) == "acme"
    assert tenant_of(request, [], GATEWAY) == ""


@pytest.mark.parametrize(
    ("values", "said"),
    [(["acme", "globex"], "given 2 times"), (["a" * 257], "at most 256 characters, got 257")],
)
def test_a_header_that_cannot_be_trusted(values: list[str], said: str):
    with pytest.raises(InvalidRequest, match=said) as caught:
        tenant_of(parse_request({"prompt": "x"}), values, GATEWAY)
    assert caught.value.param == "x-tenant"
