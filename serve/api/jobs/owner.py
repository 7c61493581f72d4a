"""Whose jobs a request may see: the tenant's that a gateway names, or that the client says."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from starlette.requests import Request

from pipelines.errors import JobNotFound
from serve.api.services import Services
from serve.jobs.job import Owner
from serve.jobs.service import JobService
from serve.tenancy.principal import tenant_of

USER_HEADER = "x-sluice-user"

User = Annotated[
    str | None,
    Query(
        description="Whose jobs, where no gateway names the tenant: the `user` that they were"
        f" submitted with. The header `{USER_HEADER}` says the same."
    ),
]


def owner_in(request: Request, services: Services, user: str | None) -> Owner:
    """Who asks; `user` is the one that its body or query names. Raises InvalidRequest."""
    tenants = services.settings.tenants
    sent = request.headers.getlist(tenants.header) if tenants.header is not None else []
    said = user or request.headers.get(USER_HEADER)
    return Owner(tenant=tenant_of(said, sent, tenants))


def nameless(services: Services) -> str:
    """Why nothing is listed to an owner without a name, and what would be."""
    header = services.settings.tenants.header
    if header is not None:
        return f"{header}: the gateway names no tenant, and jobs are listed to theirs alone"
    return (
        "user: not given, and jobs are listed to the user that they were submitted with; name it"
        f" as the parameter `user` or the header `{USER_HEADER}`"
    )


def jobs_of(services: Services) -> JobService:
    """The jobs of this server. Raises JobNotFound where there are none."""
    if services.jobs is None:
        raise JobNotFound("this server keeps no jobs: jobs.enabled is off")
    return services.jobs
