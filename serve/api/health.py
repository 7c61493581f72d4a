"""`GET /healthz` (this process answers) and `GET /readyz` (every stage can work).

`/liveness` and `/health` are the same under the names that monitors of other servers look for.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serve.api.services import services_of
from serve.error_responses import ApiResponse

_READY_TIMEOUT_S = 10.0

_NOT_READY: dict[int | str, dict[str, Any]] = {503: {"description": "A stage is not ready."}}

router = APIRouter(tags=["health"])


@router.get("/liveness")
@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Alive."""
    return {"status": "alive"}


@router.get("/health", responses=_NOT_READY)
@router.get("/readyz", responses=_NOT_READY)
async def readyz(request: Request) -> Response:
    """200 when every stage is ready, else 503; both name each stage.

    `degraded` instead of `ready` while files cannot be stored: answers have no links then.
    """
    try:
        async with asyncio.timeout(_READY_TIMEOUT_S):
            stages = dict(await services_of(request).graph.ready())
    except TimeoutError:
        stages = {}
    if stages and all(stages.values()):
        services = services_of(request)
        # Not 503: pictures are drawn all the same, and come without a link.
        if fault := services.generations.storage.fault(services.now()):
            return ApiResponse({"status": "degraded", "stages": stages, "storage": fault})
        return ApiResponse({"status": "ready", "stages": stages})
    return ApiResponse({"status": "starting", "stages": stages}, 503, headers={"retry-after": "1"})
