from __future__ import annotations

import pytest

from pipelines.errors import InvalidRequest
from serve.settings.settings import Tenants
from serve.tenancy.principal import tenant_of

GATEWAY = Tenants(header="x-tenant")


@pytest.mark.parametrize(("user", "tenant"), [(None, ""), ("", ""), ("u", "u")])
def test_without_a_gateway_the_client_says_whose_it_is(user: str | None, tenant: str):
    assert tenant_of(user, [], Tenants()) == tenant


def test_with_a_gateway_the_client_says_nothing():
    assert tenant_of("somebody else", ["acme"], GATEWAY) == "acme"
    assert tenant_of("somebody else", [], GATEWAY) == ""


@pytest.mark.parametrize(
    ("values", "said"),
    [(["acme", "globex"], "given 2 times"), (["a" * 257], "at most 256 characters, got 257")],
)
def test_a_header_that_cannot_be_trusted(values: list[str], said: str):
    with pytest.raises(InvalidRequest, match=said) as caught:
        tenant_of(None, values, GATEWAY)
    assert caught.value.param == "x-tenant"
