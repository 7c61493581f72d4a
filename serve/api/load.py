"""`GET /load`: what the application has to do now, for operators, where `metrics.load` is on."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serve.api.openapi.failures import WAITS, failures
from serve.api.services import services_of
from serve.error_responses import ApiResponse
from serve.load.server_load import ServerLoad

router = APIRouter(tags=["health"])

_LOAD: dict[str, Any] = {
    "model": ServerLoad,
    "headers": {"cache-control": {"schema": {"type": "string", "const": "no-store"}}},
}


@router.get("/load", responses={200: _LOAD, **failures(*WAITS)})
async def load(request: Request) -> Response:
    """Replicas, queues, ticks, requests, deadlines and jobs: what `sluice top` shows.

    At most a second old. Tenants are named only where a gateway names them (`tenants.header`).
    """
    found = await services_of(request).load.read()
    return ApiResponse(found.model_dump(), headers={"cache-control": "no-store"})
