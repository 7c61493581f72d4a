"""`GET /metrics`: what this node exports for Prometheus, where `metrics.route` is on.

Tenants in it have their `shown_name`; who scrapes the nodes themselves reads their names.
"""

from __future__ import annotations

import re

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from deployments.metrics.instruments import NO_TENANT, OTHER_TENANTS
from pipelines.errors import NotReady
from serve.api.openapi.failures import WAITS, failures
from serve.api.services import services_of
from serve.settings.settings import Tenants
from serve.tenancy.shown_name import shown_name

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_TENANT_LABEL = re.compile(rb'(?<=[{,]tenant=")(?:[^"\\]|\\.)*(?=")')
_ESCAPED = re.compile(r"\\(.)")

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **failures(NotReady, *WAITS),
    },
)
async def node_metrics(request: Request) -> Response:
    """The metrics of the node that this ingress replica runs on, in Prometheus's text format."""
    services = services_of(request)
    text = await services.node_metrics()
    if text is None:
        raise NotReady("the metrics of this node cannot be read now")
    return Response(_public(text, services.settings.tenants), media_type=_CONTENT_TYPE)


def _public(text: bytes, tenants: Tenants) -> bytes:
    """The metrics with tenants as everybody may read them. Of a name of more characters than a
    label has (64) the digits are the label's."""

    def shown(label: re.Match[bytes]) -> bytes:
        name = _ESCAPED.sub(r"\1", label[0].decode())
        if name in (NO_TENANT, OTHER_TENANTS):
            return label[0]
        return shown_name(name, tenants).encode()

    return text if tenants.header is not None else _TENANT_LABEL.sub(shown, text)
