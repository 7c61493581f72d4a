"""Whose a request is. Pure: knows no request, only what it says."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.errors import InvalidRequest
from serve.settings.settings import Tenants

MAX_TENANT_CHARS = 256


def tenant_of(user: str | None, header_values: Sequence[str], tenants: Tenants) -> str:
    """The tenant's name, "" for all who have none.

    `user` is what the client says of its user, and `header_values` are those of the header
    `tenants.header`. Where one is configured, what the client says names no tenant: it could be
    another's. Raises InvalidRequest for several values, of which one may be the client's, and for
    a name that is too long.
    """
    if tenants.header is None:
        return user or ""
    if len(header_values) > 1:
        raise InvalidRequest(
            f"{tenants.header}: given {len(header_values)} times; the gateway must replace what"
            " clients send",
            param=tenants.header,
        )
    name = header_values[0] if header_values else ""
    if len(name) > MAX_TENANT_CHARS:
        raise InvalidRequest(
            f"{tenants.header}: at most {MAX_TENANT_CHARS} characters, got {len(name)}",
            param=tenants.header,
        )
    return name
