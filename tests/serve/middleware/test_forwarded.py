from __future__ import annotations

import ipaddress
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers

from serve.http import create_app
from serve.middleware.forwarded import Forwarded, forwarded
from tests.serve.fakes import services

URL = "/v1/images/generations"
GATEWAY = "10.1.2.3"
TRUSTED = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8::/32")]


def said(**headers: str) -> Forwarded | None:
    return forwarded(
        Headers({name.replace("_", "-"): text for name, text in headers.items()}), TRUSTED
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("proto=https;host=a.example", (None, "https", "a.example")),
        ("for=192.0.2.43;Proto=HTTPS", ("192.0.2.43", "https", None)),
        (
            'for="[2001:db9::17]:4711";host="a.example:8443"',
            ("2001:db9::17", None, "a.example:8443"),
        ),
        (
            "for=6.6.6.6;host=evil.example, for=192.0.2.43;host=a.example",
            ("192.0.2.43", None, "a.example"),
        ),
        (
            "for=192.0.2.43;host=a.example;proto=https, for=10.9.9.9;host=b",
            ("192.0.2.43", "https", "a.example"),
        ),
        ("for=unknown;host=a.example", ("unknown", None, "a.example")),
        ("for=_hidden, for=10.0.0.1", ("_hidden", None, None)),
        ("host=evil.example;proto=http, for=192.0.2.43", ("192.0.2.43", None, None)),
    ],
)
def test_rfc_7239(text: str, expected: tuple[str | None, ...]):
    assert said(forwarded=text) == Forwarded(*expected, "")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"proto": "https", "host": "a.example"}, (None, "https", "a.example", "")),
        ({"proto": "https"}, (None, "https", None, "")),
        ({"host": "a.example", "port": "8443"}, (None, None, "a.example:8443", "")),
        ({"host": "a.example", "port": "443", "proto": "https"}, (None, "https", "a.example", "")),
        ({"host": "a.example:1", "port": "443"}, (None, None, "a.example:1", "")),
        (
            {"host": "evil.example, a.example", "for": "6.6.6.6, 7.7.7.7"},
            ("7.7.7.7", None, "a.example", ""),
        ),
        (
            {"host": "a.example, inside", "for": "7.7.7.7, 10.0.0.2"},
            ("7.7.7.7", None, "a.example", ""),
        ),
        ({"host": "a.example", "for": "7.7.7.7, 10.0.0.2"}, ("7.7.7.7", None, "a.example", "")),
        (
            {"host": "[2001:db8::5]:80", "prefix": "/images/"},
            (None, None, "[2001:db8::5]:80", "/images"),
        ),
    ],
)
def test_x_forwarded(headers: dict[str, str], expected: tuple[str | None, ...]):
    assert said(**{f"x_forwarded_{name}": text for name, text in headers.items()}) == expected


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"forwarded": "proto=https;host=a b"},
        {"forwarded": 'proto=https;host="a'},
        {"forwarded": "nonsense"},
        {"forwarded": "proto=ftp;host=a.example"},
        {"x_forwarded_proto": "https", "x_forwarded_host": "a.example/path"},
        {"x_forwarded_proto": "https", "x_forwarded_host": "user@a.example"},
        {"x_forwarded_proto": "javascript", "x_forwarded_host": "a.example"},
        {"x_forwarded_host": "a.example", "x_forwarded_prefix": "//evil.example"},
        {"x_forwarded_host": "a.example", "x_forwarded_port": "x"},
        {"x_forwarded_prefix": "/images"},
    ],
)
def test_nothing_of_what_is_malformed_is_used(headers: dict[str, str]):
    assert said(**headers) is None


def test_x_forwarded_goes_first():
    """A proxy that sets these hands `Forwarded` on as its client wrote it."""
    found = said(forwarded="host=evil.example;proto=http", x_forwarded_proto="https")
    assert found == Forwarded(None, "https", None, "")


async def link(
    headers: dict[str, str],
    client: tuple[str, int],
    scheme: str = "http",
    **settings: Any,
) -> str:
    """The start of the link in an answer to a request from `client`."""
    transport = httpx.ASGITransport(app=create_app(services(**settings)), client=client)
    async with httpx.AsyncClient(transport=transport, base_url=f"{scheme}://inside") as http:
        sent = {f"x-forwarded-{name}": text for name, text in headers.items()}
        answer = await http.post(URL, json={"prompt": "a"}, headers=sent)
        return answer.json()["data"][0]["url"].partition("/v1/")[0]


ASKED = {"proto": "https", "host": "a.example", "prefix": "/img"}
OF_ITSELF = {**ASKED, "for": "6.6.6.6"}


async def test_of_a_trusted_proxy_all_is_used():
    assert await link(ASKED, (GATEWAY, 5), trusted_proxies="10.0.0.0/8") == "https://a.example/img"


async def test_an_address_of_version_4_in_a_socket_of_version_6():
    mapped = (f"::ffff:{GATEWAY}", 5)
    assert await link(ASKED, mapped, trusted_proxies="10.0.0.0/8") == "https://a.example/img"


async def test_of_others_nothing_is_used():
    assert await link(ASKED, (GATEWAY, 5)) == "http://inside"


async def test_this_machine_is_trusted_unless_the_settings_say_otherwise():
    here, seen = ("127.0.0.1", 5), ("6.6.6.6", 0)  # as uvicorn leaves it, without a client or with
    assert await link(ASKED, here) == "https://a.example/img"
    assert await link(OF_ITSELF, seen, "https") == "https://a.example/img"
    assert await link(ASKED, here, "https", trusted_proxies="none") == "http://inside"
    assert await link(OF_ITSELF, seen, "https", trusted_proxies="none") == "http://inside"


async def test_a_client_that_names_itself_is_no_proxy():
    assert await link(OF_ITSELF, ("6.6.6.6", 5)) == "http://inside"


async def test_https_of_serve_itself_stays():
    assert await link({"host": "a.example"}, ("6.6.6.6", 5), "https") == "https://inside"


async def test_public_url_wins():
    public = "https://images.example/here/"
    assert await link(ASKED, ("127.0.0.1", 5), public_url=public) == public.rstrip("/")
