"""`GET /v1/traces/{id}` and `GET /traces`: what was recorded of requests lately."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pipelines.errors import TraceNotKept
from serve.api.errors import ApiResponse
from serve.api.services import Services, services_of
from serve.tracing.otlp import sdk_spans, to_json
from serve.tracing.recorder import Trace

router = APIRouter(tags=["traces"])


@router.get("/v1/traces/{trace_id}")
async def trace(request: Request, trace_id: str) -> Response:
    """The spans of a trace as OTLP JSON."""
    services = services_of(request)
    kept = await services.archive.get(trace_id)
    if not kept:
        raise TraceNotKept(f"no trace {trace_id[:64]!r} is kept here; /traces lists those that are")
    return ApiResponse(as_otlp(services, kept))


def as_otlp(services: Services, traces: list[Trace]) -> dict[str, Any]:
    """Requests of one trace as OTLP's JSON."""
    return to_json([span for each in traces for span in sdk_spans(each, services.resource)])
