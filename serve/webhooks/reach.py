"""Which addresses webhooks may reach. Pure; knows no names."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address

_NAT64 = IPv6Network("64:ff9b::/96")
_NEVER = {
    ip_network("168.63.129.16/32"): "Azure's own service for its machines",
    ip_network("100.100.100.200/32"): "Alibaba's metadata service",
    ip_network("fd00:ec2::/32"): "Amazon's services for its machines, its metadata among them",
    ip_network("fd20:ce::254/128"): "Google's metadata service",
    ip_network("fd00:c1::a9fe:a9fe/128"): "Oracle's metadata service",
    ip_network("fd00:42::42/128"): "Scaleway's metadata service",
    ip_network("fd00:a9fe:a9fe::1/128"): "Akamai's metadata service",
    ip_network("fd00:100::100:200/128"): "Alibaba's metadata service",
    ip_network("fec0::/10"): "site-local",
    ip_network("64:ff9b:1::/48"): "translated by the local network to who knows what",
    ip_network("2001::/32"): "a Teredo tunnel",
    ip_network("192.0.0.0/24"): "for protocols, Oracle's metadata service among them",
    ip_network("192.88.99.0/24"): "a 6to4 relay",
    ip_network("3fff::/20"): "for documentation",
    ip_network("5f00::/16"): "for segment routing",
}
_UNIQUE_LOCAL = IPv6Network("fc00::/7")
_LOCAL = tuple(
    map(
        ip_network,
        ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
    )
)


def refusal(address: Address, *, allow_private: bool) -> str | None:
    """Why nothing is sent to `address`; None if it may be.

    `allow_private` opens loopback, private and carrier-grade NAT addresses, and nothing else:
    clouds keep their machines' credentials behind link-local ones. An address inside of another
    (mapped, 6to4, NAT64) is judged as itself.
    """
    inner = _inside(address)
    if inner is not None:
        why = refusal(inner, allow_private=allow_private)
        return None if why is None else f"{why} (inside {address})"
    for network, why in _NEVER.items():
        if address in network:
            return f"{address} is {why}"
    if (kind := _never_kind(address)) is not None:
        return f"{address} is {kind}"
    if address.is_global or (allow_private and _is_local(address)):
        return None
    return f"{address} is {'loopback' if address.is_loopback else 'not public'}"


def parse(text: str) -> Address:
    """An address as a resolver gives it. Raises ValueError, also for one with a zone."""
    if "%" in text:
        raise ValueError(f"{text} is of one link only")
    return ip_address(text)


def _inside(address: Address) -> IPv4Address | None:
    if isinstance(address, IPv4Address):
        return None
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def _never_kind(address: Address) -> str | None:
    kinds = {
        "unspecified": address.is_unspecified,
        "link-local": address.is_link_local,
        "multicast": address.is_multicast,
        "reserved": address.is_reserved and not address.is_loopback,
    }
    return next((kind for kind, holds in kinds.items() if holds), None)


def _is_local(address: Address) -> bool:
    """Loopback, RFC 1918 or unique local, or carrier-grade NAT; `is_private` has more than that."""
    if isinstance(address, IPv6Address):
        return address.is_loopback or address in _UNIQUE_LOCAL
    return any(address in network for network in _LOCAL)
