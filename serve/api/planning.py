"""What the routes of generations begin with: whose a request is, what it is to draw, its log."""

from __future__ import annotations

import secrets

from starlette.requests import Request

from pipelines.errors import RequestTimeout
from serve.api.disconnect import has_left
from serve.api.links import base_url
from serve.api.normalise import normalise
from serve.api.pictures.picture import NO_PICTURES, Pictures
from serve.api.pictures.reading import PictureReader
from serve.api.schemas import ImageGenerationRequest
from serve.api.services import Services
from serve.errors import CLIENT_GONE_OUTCOME, ERROR_TABLE
from serve.generation.log import CANCELLED, LogEntry
from serve.generation.plan import Plan
from serve.middleware.timeout import is_over_time
from serve.tenancy.principal import tenant_of
from serve.tracing.recorder import RequestTrace

_RANDOM_SEED_BITS = 32
"""Drawn seeds stay exact in clients whose numbers are doubles."""


def trace_of(request: Request) -> RequestTrace:
    """The trace of the request that is served."""
    return request.state.trace


def log_entry(request: Request, fields: ImageGenerationRequest, arrived: float) -> LogEntry:
    """The log's entry for the generation that `request` asks for; it came at `arrived`."""

    def cancelled_as() -> str:
        # The error itself is made further out, where the time is measured.
        if is_over_time(request.scope):
            return ERROR_TABLE[RequestTimeout].code
        return CLIENT_GONE_OUTCOME if has_left(request.scope) else CANCELLED

    return LogEntry(
        request_id=request.state.request_id,
        trace=trace_of(request),
        arrived=arrived,
        user=user_in(fields),
        cancelled_as=cancelled_as,
    )


def tenant_in(request: Request, services: Services, fields: ImageGenerationRequest) -> str:
    """The tenant's name. Raises InvalidRequest."""
    tenants = services.settings.tenants
    sent = request.headers.getlist(tenants.header) if tenants.header is not None else []
    return tenant_of(user_in(fields), sent, tenants)


async def pictures_of(
    request: Request, services: Services, fields: ImageGenerationRequest, owner: str
) -> Pictures:
    """The pictures that `fields` name, read for the tenant `owner`. Raises FileNotStored for a file
    that is not there, or not the owner's, and StageFailed."""
    reader = PictureReader(
        store=services.store,
        fetcher=services.pictures,
        config=services.settings.pictures,
        owner=owner,
        links_begin=base_url(request, services.settings.public_url),
    )
    return await reader.read(fields)


def plan_of(
    services: Services, fields: ImageGenerationRequest, pictures: Pictures = NO_PICTURES
) -> Plan:
    """What to draw, from the `pictures` that `fields` name. Raises InvalidRequest or
    ModelNotFound."""
    return normalise(
        fields,
        spec=services.spec,
        limits=services.settings.limits,
        deadlines=services.settings.deadlines,
        served_names=services.served_names,
        random_seed=secrets.randbits(_RANDOM_SEED_BITS),
        pictures=pictures,
        control_kinds=services.control_kinds,
    )


def user_in(fields: ImageGenerationRequest) -> str | None:
    """The client's name for its user."""
    return fields.safety_identifier or fields.user
