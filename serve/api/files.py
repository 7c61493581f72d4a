"""`GET /v1/files/{id}`: the images that responses link to."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from deployments.metrics import declared as metrics
from serve.api.services import services_of

_HEADERS = {
    # A file never changes under its id, and its id is the permission to read it.
    "cache-control": "private, max-age=31536000, immutable",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; sandbox",
}

router = APIRouter(tags=["files"])


@router.get(
    "/v1/files/{file_id}",
    response_class=Response,
    responses={200: {"content": {"image/png": {}, "image/jpeg": {}, "image/webp": {}}}},
)
async def get_file(file_id: str, request: Request) -> Response:
    """The file's bytes; 404 `file_not_found` once it has expired."""
    stored = await run_in_threadpool(services_of(request).store.get, file_id)
    metrics.RETURNED_BYTES.add(len(stored.data), route="files")
    return Response(stored.data, media_type=stored.content_type, headers=_HEADERS)
