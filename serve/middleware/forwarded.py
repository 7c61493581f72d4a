"""What a proxy in front says of the request that it passes on: RFC 7239, or X-Forwarded-*.

Used as a whole, and only from proxies that the settings name: a scheme without its host, or either
from anybody, would make links that lead astray. uvicorn, below Serve, has by then taken scheme and
client of X-Forwarded-* from 127.0.0.1; where that is not trusted here, the scheme is put back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "forwarded_prefix"
"""In `request.state`: what the proxy has taken from the front of the path."""

_LOOPBACK = "127.0.0.1"
_HOST = re.compile(r"[A-Za-z0-9._-]{1,255}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")
_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*/?")
_PAIR = re.compile(r'\s*([A-Za-z]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*))\s*')
_DEFAULT_PORTS = {"http": "80", "https": "443"}


class Forwarded(NamedTuple):
    """How a request came to the outermost proxy that is trusted; None is not said."""

    client: str | None
    scheme: str | None
    host: str | None
    prefix: str


class ForwardedMiddleware:
    """Gives what is inside it the scheme, host and client of `Forwarded` or X-Forwarded-*.

    Only if the request comes from one of `trusted`, addresses or networks, and all that is said is
    well-formed; else nothing of it is used.
    """

    def __init__(self, app: ASGIApp, *, trusted: Sequence[str]) -> None:
        self._app = app
        self._trusted = [ip_network(each, strict=False) for each in trusted]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = self._as_forwarded(scope)
        await self._app(scope, receive, send)

    def _as_forwarded(self, scope: Scope) -> Scope:
        headers = Headers(scope=scope)
        peer = _peer(scope, headers)
        if not _is_in(peer, self._trusted):
            was_changed = _is_in(peer, _UVICORN_TRUSTS) and "x-forwarded-proto" in headers
            return {**scope, "scheme": "http"} if was_changed else scope
        said = forwarded(headers, self._trusted)
        if said is None:
            return scope
        changed: Scope = {**scope}
        changed.setdefault("state", {})[PREFIX] = said.prefix
        if said.scheme is not None:
            changed["scheme"] = said.scheme
        if said.client is not None:
            changed["client"] = (said.client, 0)
        if said.host is not None:
            others = [(name, value) for name, value in scope["headers"] if name != b"host"]
            changed["headers"] = [(b"host", said.host.encode()), *others]
        return changed


_Networks = Sequence[IPv4Network | IPv6Network]

_UVICORN_TRUSTS: _Networks = [ip_network("127.0.0.1"), ip_network("::1")]


def forwarded(headers: Headers, trusted: _Networks) -> Forwarded | None:
    """What the headers say, by the outermost of the proxies in a row that are trusted; None if
    there is nothing, or if any of it is malformed.

    X-Forwarded-* goes before `Forwarded`, which fewer proxies know, and would pass on as it came.
    """
    lists = _x_forwarded(headers) or _rfc7239(headers)
    if not lists:
        return None
    clients = lists.get("for", [])
    # The last element is by the nearest proxy. Where it names a proxy that is trusted too, the one
    # before it is by that one.
    hops = 1
    while hops < len(clients) and _is_in(_address(clients[-hops]), trusted):
        hops += 1

    def said(name: str) -> str | None:
        values = lists.get(name, [])
        return values[-min(hops, len(values))] or None if values else None

    client, scheme, host = said("for"), said("proto"), said("host")
    prefix, port = said("prefix") or "", said("port")
    scheme = scheme and scheme.lower()
    is_sound = (
        (scheme is None or scheme in _DEFAULT_PORTS)
        and (host is None or _HOST.fullmatch(host) is not None)
        and (port is None or re.fullmatch(r"\d{1,5}", port) is not None)
        and _PATH.fullmatch(prefix) is not None
    )
    if not is_sound:
        return None
    if host is not None and port is not None and not re.search(r":\d+$", host):
        host = host if port == _DEFAULT_PORTS.get(scheme or "") else f"{host}:{port}"
    return Forwarded(client and _address(client), scheme, host, prefix.rstrip("/"))


def _x_forwarded(headers: Headers) -> Mapping[str, list[str]]:
    found = {
        name: [part.strip() for value in values for part in value.split(",")]
        for name in ("for", "proto", "host", "port", "prefix")
        if (values := headers.getlist(f"x-forwarded-{name}"))
    }
    return found if found.keys() & {"for", "proto", "host"} else {}


def _rfc7239(headers: Headers) -> Mapping[str, list[str]]:
    """The lists of `for`, `proto` and `host`, "" where an element does not say; none if anything
    is malformed."""
    found: dict[str, list[str]] = {}
    text = ",".join(headers.getlist("forwarded"))
    place = 0
    element: dict[str, str] = {}
    while place < len(text):
        pair = _PAIR.match(text, place)
        if pair is None:
            return {}
        name, quoted, token = pair.groups()
        element[name.lower()] = re.sub(r"\\(.)", r"\1", quoted) if token is None else token
        place = pair.end()
        mark, place = text[place : place + 1], place + 1
        if mark not in ("", ";", ","):
            return {}
        if mark != ";":
            for key in ("for", "proto", "host"):
                found.setdefault(key, []).append(element.get(key, ""))
            element = {}
    return {name: values for name, values in found.items() if any(values)}


def _peer(scope: Scope, headers: Headers) -> str:
    """The address that the connection is from, or one that uvicorn trusts in its place.

    uvicorn puts the client of X-Forwarded-For there, with port 0, which no connection has.
    """
    host, port = scope.get("client") or ("", None)
    return _LOOPBACK if port == 0 and "x-forwarded-for" in headers else host


def _address(node: str) -> str:
    """The address of `192.0.2.1:80`, `[2001:db8::1]:80` or a bare one; others as they are."""
    if bracketed := re.match(r"\[([^\]]*)\]", node):
        return bracketed[1]
    return node.partition(":")[0] if node.count(":") == 1 else node


def _is_in(address: str, networks: _Networks) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped  # as a socket for both versions names it
    return any(parsed in network for network in networks)
