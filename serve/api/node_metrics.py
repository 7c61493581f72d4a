"""`GET /metrics`: what this node exports for Prometheus, where `metrics.route` is on."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pipelines.errors import NotReady
from serve.api.openapi.failures import WAITS, failures
from serve.api.services import services_of

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

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
    text = await services_of(request).node_metrics()
    if text is None:
        raise NotReady("the metrics of this node cannot be read now")
    return Response(text, media_type=_CONTENT_TYPE)
