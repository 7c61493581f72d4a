"""Addresses that nothing is sent to, however they are written."""

from __future__ import annotations

import pytest

from serve.webhooks.reach import parse, refusal

PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "2606:4700:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "2002:808:808::1",
]
LOCAL = [
    "127.0.0.1",
    "127.255.255.254",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",
    "::1",
    "fc00::1",
    "fd12:3456::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "2002:7f00:1::",
    "2002:a00:1::1",
]
NEVER = [
    "0.0.0.0",
    "0.1.2.3",
    "169.254.169.254",
    "169.254.170.2",
    "168.63.129.16",
    "100.100.100.200",
    "192.0.0.192",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "192.88.99.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::7f00:1",
    "::ffff:0.0.0.0",
    "::ffff:169.254.169.254",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fd00:c1::a9fe:a9fe",
    "fd00:42::42",
    "fd00:a9fe:a9fe::1",
    "fd00:100::100:200",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::7f00:1",
    "2002:a9fe:a9fe::",
    "2001::1",
    "2001:db8::1",
    "3fff::1",
    "5f00::1",
    "100::1",
]


@pytest.mark.parametrize("text", PUBLIC)
def test_public(text: str):
    assert refusal(parse(text), allow_private=False) is None


@pytest.mark.parametrize("text", LOCAL)
def test_local_where_the_operator_allows_it(text: str):
    assert refusal(parse(text), allow_private=False)
    assert refusal(parse(text), allow_private=True) is None


@pytest.mark.parametrize("text", NEVER)
def test_never(text: str):
    assert refusal(parse(text), allow_private=False)
    assert refusal(parse(text), allow_private=True)


def test_an_inner_address_is_named():
    why = refusal(parse("::ffff:169.254.169.254"), allow_private=True)
    assert why == "169.254.169.254 is link-local (inside ::ffff:a9fe:a9fe)"


def test_a_zone_is_no_address():
    with pytest.raises(ValueError, match="one link"):
        parse("fe80::1%eth0")
