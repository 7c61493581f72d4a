"""Target: a URL of a client's, taken apart strictly, and the patterns that allow it.

Parsers of URLs differ in what they make of `\\`, `@`, `0x7f.1` or a fullwidth digit, and each
difference is a way around a check. So only what all of them read alike is taken, and requests are
made from the parts found here, never from the client's text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Self

MAX_URL_CHARS = 2048

_DEFAULT_PORTS = {"https": 443, "http": 80}
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://"
    r"(?P<authority>[^/?#\\]*)(?P<path>/[^?#\\]*)?(?P<query>\?[^#\\]*)?"
)
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(:(?P<port>[0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_MAX_HOST_CHARS = 253


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a webhook goes. `host` is a name in lower case, or an address as `ipaddress` writes it
    (IPv6 without brackets); `path` has the query with it."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises ValueError with what to write instead."""
        if len(url) > MAX_URL_CHARS:
            raise ValueError(f"must have at most {MAX_URL_CHARS} characters, got {len(url)}")
        if not url.isascii():
            raise ValueError("must be ASCII; write a name in its `xn--` form, a path with %XX")
        if not url.isprintable() or " " in url:
            raise ValueError("must not hold blanks or control characters; write them as %XX")
        found = _URL.fullmatch(url)
        if found is None:
            raise ValueError("must be a URL such as https://hooks.example.com/path, without `#`")
        scheme, authority = found["scheme"].lower(), found["authority"]
        if scheme not in _DEFAULT_PORTS:
            raise ValueError("must begin with https://")
        if "@" in authority:
            raise ValueError("must not hold credentials; messages are signed instead")
        host, port = _host_and_port(scheme, authority)
        path = (found["path"] or "/") + (found["query"] or "")
        return cls(scheme=scheme, host=host, port=port, path=path)

    @property
    def address(self) -> IPv4Address | IPv6Address | None:
        """The address that `host` is; None for a name."""
        return parse_address(self.host)

    @property
    def netloc(self) -> str:
        """Host and port as the header `host` has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.netloc}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginPattern:
    """Origins that an operator allows: one, those of all names below a domain (`*.`), or all."""

    text: str
    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError saying what would do."""
        found = re.fullmatch(r"(https?)://([^/?#@\s]+)", text.strip().lower())
        if found is None:
            raise ValueError("must be an origin such as https://hooks.example.com")
        scheme, authority = found.groups()
        wild = re.fullmatch(r"\*(?P<dot>\.)?(?P<rest>.*)", authority)
        if wild is None:
            host, port = _host_and_port(scheme, authority)
            return cls(text=text, scheme=scheme, host=host, port=port)
        if (wild["dot"] is None) != (wild["rest"].partition(":")[0] == ""):
            raise ValueError("`*` stands for whole names only, such as https://*.example.com")
        host, port = _host_and_port(scheme, wild["rest"] if wild["dot"] else f"any{wild['rest']}")
        if wild["dot"] and parse_address(host) is not None:
            raise ValueError("nothing is below an address; write the address alone")
        host = f".{host}" if wild["dot"] else "*"
        return cls(text=text, scheme=scheme, host=host, port=port)

    def allows(self, target: Target) -> bool:
        """Whether `target` is of these origins. No `*` stands for an address."""
        if (target.scheme, target.port) != (self.scheme, self.port):
            return False
        if self.host == target.host:
            return True
        is_name = target.address is None
        return is_name and (
            self.host == "*" or (self.host.startswith(".") and target.host.endswith(self.host))
        )


def parse_address(host: str) -> IPv4Address | IPv6Address | None:
    """The address that `host` is, in the one notation that everybody reads alike; else None."""
    try:
        return IPv6Address(host) if ":" in host else IPv4Address(host)
    except AddressValueError:
        return None


def _host_and_port(scheme: str, authority: str) -> tuple[str, int]:
    found = _AUTHORITY.fullmatch(authority)
    if found is None:
        raise ValueError("must name a host, and after it at most `:` and a port")
    port = _DEFAULT_PORTS[scheme] if found["port"] is None else int(found["port"])
    if not 0 < port < 65536:
        raise ValueError(f"port {port} does not exist; use 1 to 65535, or none")
    return _host(found["host"].lower()), port


def _host(host: str) -> str:
    if host.startswith("["):
        if "%" in host:
            raise ValueError("must not name a zone (`%`) of an address")
        address = parse_address(host[1:-1]) if ":" in host else None
        if address is None:
            raise ValueError(f"{host} is not an IPv6 address")
        return str(address)
    if host.endswith("."):
        raise ValueError("the host must not end with a dot")
    labels = host.split(".")
    if len(host) > _MAX_HOST_CHARS or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("the host must be a name of letters, digits, hyphens and dots")
    if _NUMBER.fullmatch(labels[-1]) is None:
        return host
    if (address := parse_address(host)) is None:  # 127.1, 0177.0.0.1, 2130706433, 0x7f.0.0.1
        raise ValueError("an address must be written as four decimal numbers, such as 192.0.2.1")
    return str(address)
