"""`GET /healthz` (this process answers) and `GET /readyz` (every stage can work).

`/liveness` and `/health` are the same under the names that monitors of other servers look for.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from serve.api.openapi.failures import WAITS, Responses, failures, header_refs
from serve.api.services import services_of
from serve.error_responses import ApiResponse

_READY_TIMEOUT_S = 10.0


class Alive(BaseModel):
    status: Literal["alive"] = "alive"


class Readiness(BaseModel):
    """Whether each stage, by its deployment's name, can work; `storage` says why no file can be
    stored."""

    status: Literal["ready", "degraded", "starting"]
    stages: dict[str, bool]
    storage: str | None = None


_READINESS: Responses = {
    200: {"model": Readiness, "description": "Every stage is ready."},
    503: {
        "model": Readiness,
        "description": "A stage is not ready.",
        "headers": header_refs("retry-after"),
    },
    **failures(*WAITS),
}

router = APIRouter(tags=["health"])


@router.get("/liveness", responses=failures())
@router.get("/healthz", responses=failures())
async def healthz() -> Alive:
    """Alive."""
    return Alive()


@router.get("/health", responses=_READINESS)
@router.get("/readyz", responses=_READINESS)
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
