"""URLs of clients, taken apart: what everybody reads alike, and nothing else."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.webhooks.target import MAX_URL_CHARS, OriginPattern, Target


def target(url: str) -> Target:
    return Target.parse(url)


@pytest.mark.parametrize(
    ("url", "origin", "path"),
    [
        ("https://hooks.example.com", "https://hooks.example.com", "/"),
        ("HTTPS://Hooks.EXAMPLE.com:443/A?b=C", "https://hooks.example.com", "/A?b=C"),
        ("https://hooks.example.com?x", "https://hooks.example.com", "/?x"),
        ("http://hooks.example.com:8080/a//b", "http://hooks.example.com:8080", "/a//b"),
        ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example", "/"),
        ("https://192.0.2.1/x", "https://192.0.2.1", "/x"),
        ("https://[2001:DB8:0::1]:8443/x", "https://[2001:db8::1]:8443", "/x"),
        ("https://a.example/?next=http://169.254.169.254/@", "https://a.example", None),
    ],
)
def test_parts(url: str, origin: str, path: str | None):
    found = target(url)
    assert found.origin == origin
    assert found.path == (path or "/?next=http://169.254.169.254/@")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "must be a URL"),
        ("hooks.example.com/path", "must be a URL"),
        ("//hooks.example.com/path", "must be a URL"),
        ("https:/hooks.example.com", "must be a URL"),
        ("https:hooks.example.com", "must be a URL"),
        ("ftp://hooks.example.com", "must begin with https://"),
        ("file:///etc/passwd", "must begin with https://"),
        ("gopher://127.0.0.1:6379/_FLUSHALL", "must begin with https://"),
        ("https:///path", "name of letters"),
        ("https://user:secret@hooks.example.com/", "credentials"),
        ("https://hooks.example.com@169.254.169.254/", "credentials"),
        ("https://hooks.example.com\\@169.254.169.254/", "must be a URL"),
        ("https://hooks.example.com#@169.254.169.254/", "must be a URL"),
        ("https://hooks.example.com/#x", "must be a URL"),
        ("https://hooks.example.com/\\x", "must be a URL"),
        ("https://hooks.example.com /x", "blanks"),
        ("https://hooks.example.com/a b", "blanks"),
        ("https://hooks.example.com/\r\nx: y", "blanks"),
        ("\thttps://hooks.example.com/", "blanks"),
        ("https://hooks.example.com/\x00", "blanks"),
        ("https://hooks.example.com:0/", "port 0"),
        ("https://hooks.example.com:65536/", "port 65536"),
        ("https://hooks.example.com:443443/", "at most `:` and a port"),
        ("https://hooks.example.com:/", "at most `:` and a port"),
        ("https://hooks.example.com:80:443/", "at most `:` and a port"),
        ("https://hooks.example.com:+443/", "at most `:` and a port"),
        ("https://hooks.example.com./", "end with a dot"),
        ("https://./", "end with a dot"),
        ("https://hooks..example.com/", "name of letters"),
        ("https://-hooks.example.com/", "name of letters"),
        ("https://hooks%2eexample.com/", "name of letters"),
        ("https://hooks_example.com/", "name of letters"),
        (f"https://{'a' * 64}.example.com/", "name of letters"),
        (f"https://{'a.' * 130}example.com/", "name of letters"),
        ("https://hooks。example.com/", "ASCII"),
        ("https://ｈooks.example.com/", "ASCII"),
        ("https://１２７.０.０.１/", "ASCII"),
        ("https://①②⑦.⓪.⓪.①/", "ASCII"),
        ("https://bücher.example/", "ASCII"),
        ("https://hooks.example.com/ü", "ASCII"),
        ("https://127.1/", "four decimal numbers"),
        ("https://2130706433/", "four decimal numbers"),
        ("https://0x7f000001/", "four decimal numbers"),
        ("https://0x7f.0.0.0x1/", "four decimal numbers"),
        ("https://0177.0.0.01/", "four decimal numbers"),
        ("https://127.0.0.01/", "four decimal numbers"),
        ("https://017700000001/", "four decimal numbers"),
        ("https://169.254.43518/", "four decimal numbers"),
        ("https://1.2.3.4.5/", "four decimal numbers"),
        ("https://256.1.1.1/", "four decimal numbers"),
        ("https://0x/", "four decimal numbers"),
        ("https://[::1%25eth0]/", "zone"),
        ("https://[fe80::1%eth0]/", "zone"),
        ("https://[127.0.0.1]/", "not an IPv6"),
        ("https://[::ffff:0x7f000001]/", "not an IPv6"),
        ("https://[v1.x]/", "not an IPv6"),
        ("https://[]/", "not an IPv6"),
        ("https://[::1/", "at most `:` and a port"),
        ("https://[::1]x/", "at most `:` and a port"),
        ("https://::1/", "at most `:` and a port"),
        (f"https://a.example/{'x' * MAX_URL_CHARS}", "at most 2048"),
    ],
)
def test_refused(url: str, says: str):
    with pytest.raises(ValueError, match=re.escape(says)):
        target(url)


@given(st.text(st.characters(max_codepoint=0x7E, min_codepoint=0x20), max_size=40))
def test_what_is_taken_other_parsers_read_alike(rest: str):
    url = f"https://{rest}"
    try:
        found = target(url)
    except ValueError:
        return
    other = urlsplit(url)
    assert found.host == (other.hostname or "")
    assert found.port == (other.port or 443)
    assert other.username is None


@pytest.mark.parametrize(
    ("pattern", "url", "is_allowed"),
    [
        ("https://hooks.example.com", "https://HOOKS.example.com:443/x", True),
        ("https://hooks.example.com", "http://hooks.example.com/x", False),
        ("https://hooks.example.com", "https://hooks.example.com:8443/x", False),
        ("https://hooks.example.com:8443", "https://hooks.example.com:8443/x", True),
        ("https://hooks.example.com:8443", "https://hooks.example.com/x", False),
        ("https://hooks.example.com", "https://hooks.example.com.evil.example/x", False),
        ("https://hooks.example.com", "https://xhooks.example.com/x", False),
        ("https://*.example.com", "https://a.b.example.com/x", True),
        ("https://*.example.com", "https://example.com/x", False),
        ("https://*.example.com", "https://evilexample.com/x", False),
        ("https://*.example.com:9000", "https://a.example.com:9000/x", True),
        ("HTTPS://*.Example.COM", "https://a.example.com/x", True),
        ("https://*", "https://anything.example/x", True),
        ("https://*", "https://192.0.2.1/x", False),
        ("https://*", "https://[2001:db8::1]/x", False),
        ("https://*", "http://anything.example/x", False),
        ("https://*:8443", "https://anything.example:8443/x", True),
        ("http://hooks.example.com", "http://hooks.example.com/x", True),
        ("https://192.0.2.1", "https://192.0.2.1/x", True),
        ("https://[2001:db8:0:0::1]", "https://[2001:db8::1]/x", True),
    ],
)
def test_patterns(pattern: str, url: str, is_allowed: bool):
    assert OriginPattern.parse(pattern).allows(target(url)) is is_allowed


@pytest.mark.parametrize(
    "pattern",
    [
        "hooks.example.com",
        "https://hooks.example.com/path",
        "https://*example.com",
        "https://*.",
        "https://a.*.com",
        "https://*.192.0.2.1",
        "https://127.1",
        "https://user@hooks.example.com",
        "ftp://hooks.example.com",
        "*",
        "",
    ],
)
def test_patterns_that_are_none(pattern: str):
    with pytest.raises(ValueError, match=r"\w"):
        OriginPattern.parse(pattern)
