"""`GET /v1/traces/{id}` and `GET /traces`: what was recorded of requests lately.

For a browser as pages, for programs as JSON. They show no prompt, but what was asked for, when, and
by whom, as far as everybody may know (`public_trace`). Whether there is a list: `tracing.listed`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from pipelines.errors import TraceNotKept
from serve.api.openapi.failures import TAKES_PARAMETERS, WAITS, failures
from serve.api.services import services_of
from serve.error_responses import ApiResponse
from serve.middleware.error_page import prefers_page
from serve.tenancy.shown_name import shown_name
from serve.tracing.job_spans import each_once
from serve.tracing.otlp import sdk_spans, to_json
from serve.tracing.public_trace import public_trace
from serve.tracing.recorder import Trace
from serve.tracing.views.excerpt import excerpt
from serve.tracing.views.page import content_security_policy, list_page, trace_page
from serve.tracing.views.summary import TraceFilters, TraceList, summarise

router = APIRouter(tags=["traces"])

Format = Annotated[
    Literal["json", "html"] | None, Query(description="Else as the header `accept` prefers.")
]

_PAGE: dict[str, Any] = {
    "content": {"text/html": {"schema": {"type": "string"}}},
    "headers": {
        name: {"description": "Of the page.", "schema": {"type": "string"}}
        for name in ("content-security-policy", "cache-control")
    },
}
_OTLP: dict[str, Any] = {
    "type": "object",
    "description": "`TracesData` of OpenTelemetry's protocol, in its JSON.",
    "properties": {"resourceSpans": {"type": "array", "items": {"type": "object"}}},
    "required": ["resourceSpans"],
}


@router.get(
    "/v1/traces/{trace_id}",
    responses={
        200: {
            **_PAGE,
            "content": {**_PAGE["content"], "application/json": {"schema": _OTLP}},
        },
        **failures(TraceNotKept, *TAKES_PARAMETERS, *WAITS),
    },
)
async def trace(request: Request, trace_id: str, format: Format = None) -> Response:
    """The spans of a trace: OTLP in JSON, or a page with its waterfall."""
    services = services_of(request)
    kept = await services.archive.get(trace_id)
    if not kept:
        raise TraceNotKept(
            f"no trace {trace_id[:64]!r} is kept here; it may be too old, or was not recorded"
        )
    kept = [public_trace(each, services.settings.tenants) for each in kept]
    if prefers_page(request.scope):
        return await _page(lambda: _trace_page(kept))
    return await run_in_threadpool(lambda: ApiResponse(as_otlp(kept)))


@router.get(
    "/traces",
    responses={
        200: {"model": TraceList, **_PAGE},
        **failures(TraceNotKept, *TAKES_PARAMETERS, *WAITS),
    },
)
async def traces(
    request: Request,
    slow: bool = False,
    missed: bool = False,
    failed: bool = False,
    tenant: str | None = None,
    format: Format = None,
) -> Response:
    """The latest traces, the newest first: a page, or JSON."""
    services = services_of(request)
    if not services.settings.tracing.listed:
        raise TraceNotKept("traces are not listed here: tracing.listed is off")
    filters = TraceFilters(slow=slow, missed=missed, failed=failed, tenant=tenant)
    tenants, latest = services.settings.tenants, await services.archive.latest()
    chosen = await run_in_threadpool(
        lambda: filters.select(
            (summarise(as_otlp([public_trace(each, tenants)])) for each in each_once(latest)),
            shown=lambda name: shown_name(name, tenants),
        )
    )
    if prefers_page(request.scope):
        return await _page(lambda: list_page(chosen, filters))
    return ApiResponse(TraceList(data=tuple(chosen)).as_json())


def as_otlp(traces: Sequence[Trace]) -> dict[str, Any]:
    """Requests of one trace as OTLP's JSON."""
    return to_json([span for each in traces for span in sdk_spans(each)])


def _trace_page(traces: Sequence[Trace]) -> str:
    shown = excerpt(traces)
    return trace_page(
        as_otlp(shown.traces),
        left_out_requests=shown.left_out_requests,
        left_out_spans=shown.left_out_spans,
    )


async def _page(draw: Callable[[], str]) -> Response:
    """In a thread: a trace of thousands of spans takes half a second."""
    policy = f"{content_security_policy()}; frame-ancestors 'none'"
    headers = {"content-security-policy": policy, "cache-control": "no-store"}
    return HTMLResponse(await run_in_threadpool(draw), headers=headers)
