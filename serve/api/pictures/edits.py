"""`POST /v1/images/edits` and `/v1/images/variations`: OpenAI's routes, with pictures."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pipelines.errors import FileNotStored, InvalidRequest
from serve.api.disconnect import while_connected
from serve.api.event_stream import event_stream
from serve.api.image_stream import EDIT, ImageStream
from serve.api.images import DRAWN, as_job, draw
from serve.api.jobs.submitting import (
    KEY_PARAMETER,
    KIND,
    PREFER_PARAMETER,
    VARIATION,
    wants_job,
)
from serve.api.openapi.failures import DRAWS, KEEPS, READS_GENERATION, failures
from serve.api.pictures.uploads import SentBody, read_body
from serve.api.planning import trace_of
from serve.api.schemas import (
    EDIT_BODY,
    VARIATION_BODY,
    ImageGenerationRequest,
    ImagesResponse,
    parse_request,
)
from serve.api.services import services_of

_RESPONSES: dict[int | str, dict[str, Any]] = {
    **DRAWN,
    **failures(*READS_GENERATION, *DRAWS, *KEEPS, FileNotStored),
}
_PARAMETERS = {"parameters": [PREFER_PARAMETER, KEY_PARAMETER]}

router = APIRouter(tags=["images"])


@router.post(
    "/v1/images/edits",
    response_model=ImagesResponse,
    responses=_RESPONSES,
    openapi_extra={**EDIT_BODY, **_PARAMETERS},
)
async def edit_images(request: Request) -> Response:
    """Draw from one picture or several: by instruction, from a picture and a strength, inside a
    mask, around a picture, or by a map, whichever of these comes. 400 names what is wrong.

    With `stream`, events as those of generations, whose names begin with `image_edit`.
    """
    return await _answer(request, is_variation=False)


@router.post(
    "/v1/images/variations",
    response_model=ImagesResponse,
    responses=_RESPONSES,
    openapi_extra={**VARIATION_BODY, **_PARAMETERS},
)
async def vary_image(request: Request) -> Response:
    """Draw pictures like the one that comes. Takes the fields of edits as well, without a mask."""
    return await _answer(request, is_variation=True)


async def _answer(request: Request, *, is_variation: bool) -> Response:
    services = services_of(request)
    arrived = services.now()
    with trace_of(request).root.part("read"):
        sent = await read_body(request)
        if wants_job(request) and services.jobs is not None:
            kind = VARIATION if is_variation else "edit"
            return await as_job(
                request, services, sent._replace(fields={KIND: kind, **sent.fields})
            )
        fields = edit_fields(sent, is_variation=is_variation)
    if fields.stream:
        stream = ImageStream(request, services, fields, arrived, kind=EDIT)
        await while_connected(request, stream.begin())
        return event_stream(stream, request, resumable=False)
    return await draw(request, services, fields, arrived)


def edit_fields(sent: SentBody, *, is_variation: bool) -> ImageGenerationRequest:
    """What the body asks for. Raises InvalidRequest, also for one without a picture."""
    fields = parse_request(sent.fields, sent.uploads, is_variation=is_variation)
    check_has_picture(fields)
    return fields


def check_has_picture(fields: ImageGenerationRequest) -> None:
    """Raises InvalidRequest for an edit of nothing."""
    if not fields.has_pictures:
        raise InvalidRequest(
            "image: required, and it is missing; send a file, a data URL or the id of a file here",
            param="image",
        )
