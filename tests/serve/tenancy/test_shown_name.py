from __future__ import annotations

import re

from serve.settings.settings import Tenants
from serve.tenancy.shown_name import shown_name

GATEWAY = Tenants(header="x-tenant")


def test_who_is_named_by_a_gateway_keeps_the_name():
    assert shown_name("acme", GATEWAY) == "acme"


def test_names_that_clients_choose_are_told_apart_and_not_told():
    anna, ben = (shown_name(name, Tenants()) for name in ("anna", "ben"))
    assert re.fullmatch("user-[0-9a-f]{8}", anna)
    assert anna == shown_name("anna", Tenants())
    assert anna != ben


def test_nobody_is_nobody():
    assert shown_name("", Tenants()) == shown_name("", GATEWAY) == ""
