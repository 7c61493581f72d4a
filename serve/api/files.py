"""`GET /v1/files/{id}`: the images that responses link to."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from deployments.metrics import declared as metrics
from pipelines.errors import FileNotStored, StageFailed
from serve.api.openapi.failures import WAITS, failures, header_refs
from serve.api.ranges import content_range, is_known, wanted_range
from serve.api.services import services_of
from serve.middleware.head import IS_HEAD

_HEADERS = {
    # A file never changes under its id, and its id is the permission to read it.
    "cache-control": "private, max-age=31536000, immutable",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; sandbox",
    "accept-ranges": "bytes",
}
_IMAGES: dict[str, Any] = {
    content_type: {"schema": {"type": "string", "format": "binary"}}
    for content_type in ("image/png", "image/jpeg", "image/webp")
}
_ABOUT: dict[str, Any] = {
    **{
        name: {"required": True, "schema": {"type": "string", "const": value}}
        for name, value in _HEADERS.items()
    },
    "etag": {
        "description": "The id in quotes.",
        "required": True,
        "schema": {"type": "string", "pattern": '^"[^"]+"$'},
    },
}


def _asked_with(name: str, description: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "description": description,
        "schema": {"type": "string"},
    }


_CONDITIONS: dict[str, Any] = {
    "parameters": [
        _asked_with("range", "`bytes=FIRST-LAST`; what is not understood is not used."),
        _asked_with("if-range", "An etag: the whole file, if it has another."),
        _asked_with("if-none-match", "Etags, or `*`: 304, if it has one of these."),
    ]
}

router = APIRouter(tags=["files"])


@router.get(
    "/v1/files/{file_id}",
    response_class=Response,
    responses={
        200: {"content": _IMAGES, "headers": _ABOUT},
        206: {
            "content": _IMAGES,
            "headers": {**_ABOUT, **header_refs("content-range")},
            "description": "The part that `range` asks for.",
        },
        304: {"description": "`if-none-match` names it.", "headers": _ABOUT},
        **failures(FileNotStored, StageFailed, 416, *WAITS),
    },
    openapi_extra=_CONDITIONS,
)
async def get_file(file_id: str, request: Request) -> Response:
    """The file's bytes, or a part of them; 404 `file_not_found` once it has expired."""
    stored = await run_in_threadpool(services_of(request).store.get, file_id)
    headers = {**_HEADERS, "etag": (etag := f'"{file_id}"')}
    if is_known(request.headers, etag):
        return Response(status_code=304, headers=headers)
    data, status = stored.data, 200
    part = wanted_range(request.headers, etag, len(data))
    if part is not None:
        headers["content-range"] = content_range(part, len(data))
        data, status = data[part], 206
    if not getattr(request.state, IS_HEAD, False):
        metrics.RETURNED_BYTES.add(len(data), route="files")
    return Response(data, status, media_type=stored.content_type, headers=headers)
