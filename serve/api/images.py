"""`POST /v1/images/generations`: OpenAI's route: to a plan, and from an answer."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from pipelines.errors import FileNotStored
from pipelines.tracing.spans import Timings
from serve.api.disconnect import while_connected
from serve.api.event_stream import STREAM_HEADERS, event_stream, stream_content
from serve.api.file_response import file_response
from serve.api.image_stream import ImageStream
from serve.api.images_response import images_response, milliseconds
from serve.api.jobs.job_view import JobView
from serve.api.jobs.submitting import (
    IDEMPOTENCY_KEY,
    JOB_HEADERS,
    KEY_PARAMETER,
    PREFER_PARAMETER,
    RESPOND_ASYNC,
    idempotency_key_in,
    submit_body,
    submitted_response,
    wants_job,
)
from serve.api.openapi.failures import DRAWS, KEEPS, READS_GENERATION, failures
from serve.api.pictures.uploads import SentBody, read_json
from serve.api.planning import log_entry, pictures_of, plan_of, tenant_in, trace_of
from serve.api.schemas import (
    GENERATION_BODY,
    ImageGenerationRequest,
    ImagesResponse,
    parse_request,
)
from serve.api.services import Services, services_of
from serve.error_responses import ApiResponse
from serve.generation.sharing import Answer

ABOUT_DRAWN: dict[str, Any] = {
    "server-timing": {
        "description": "Milliseconds by phase, of the slowest image.",
        "schema": {"type": "string"},
    },
    "x-sluice-cache": {
        "description": "`hit`: an answer that was kept. `shared`: drawn together with an"
        " equal request. Absent: drawn for this request.",
        "schema": {"type": "string", "enum": ["hit", "shared"]},
    },
    "content-disposition": {
        "description": "With `response_format: file`: a name for the file.",
        "schema": {"type": "string"},
    },
    "x-sluice-seed": {
        "description": "With `response_format: file`: the seed of the first image.",
        "schema": {"type": "integer"},
    },
    "x-sluice-warnings": {
        "description": "With `response_format: file`: a JSON array of strings, if any.",
        "schema": {"type": "string"},
    },
}

DRAWN: dict[int | str, dict[str, Any]] = {
    200: {
        "headers": {**ABOUT_DRAWN, **STREAM_HEADERS},
        "content": {
            **{
                media_type: {"schema": {"type": "string", "format": "binary"}}
                for media_type in ("image/png", "image/jpeg", "image/webp", "application/zip")
            },
            **stream_content("With `stream`: one of many."),
        },
    },
    202: {
        "description": "With `prefer: respond-async`: a job was stored. It may have a"
        " `webhook_url`.",
        "model": JobView,
        "headers": {
            **JOB_HEADERS,
            "preference-applied": {
                "required": True,
                "schema": {"type": "string", "const": RESPOND_ASYNC},
            },
        },
    },
}
"""What routes answer that draw, or store a job instead where the client prefers that."""

_RESPONSES: dict[int | str, dict[str, Any]] = {
    **DRAWN,
    **failures(*READS_GENERATION, *DRAWS, *KEEPS, FileNotStored),
}

_KEY_NOT_USED = (
    f"{IDEMPOTENCY_KEY}: not used, as nothing is stored; with `prefer: {RESPOND_ASYNC}` it is"
)

router = APIRouter(tags=["images"])


@router.post(
    "/v1/images/generations",
    response_model=ImagesResponse,
    responses=_RESPONSES,
    openapi_extra={**GENERATION_BODY, "parameters": [PREFER_PARAMETER, KEY_PARAMETER]},
)
async def generate_images(request: Request) -> Response:
    """Draw `n` images from a prompt; 400 names the field that is wrong and what is allowed.

    With `stream`, events: `image_generation.partial_image`, up to `partial_images` of each image,
    and at the end `image_generation.completed` for each; `image_index` says which image it is. The
    `usage` of all completed events together is that of the request: the input tokens are counted
    with the first. An event whose JSON has an `error`, as an error's answer has, is the last.
    """
    services = services_of(request)
    arrived = services.now()
    with trace_of(request).root.part("read"):
        sent = await read_json(request)
        if wants_job(request) and services.jobs is not None:
            return await as_job(request, services, sent)
        fields = parse_request(sent.fields, sent.uploads)
    if fields.stream:
        stream = ImageStream(request, services, fields, arrived)
        await while_connected(request, stream.begin())
        return event_stream(stream, request, resumable=False)
    return await draw(request, services, fields, arrived)


async def draw(
    request: Request, services: Services, fields: ImageGenerationRequest, arrived: float
) -> Response:
    """Draw what `fields` ask for, while the client is there, and answer as `response_format` says;
    the request came at `arrived`."""
    key = idempotency_key_in(request)
    with services.generations.logged(log_entry(request, fields, arrived)) as entry:
        entry.tenant = tenant_in(request, services, fields)
        pictures = await pictures_of(request, services, fields, entry.tenant)
        plan = plan_of(services, fields, pictures)
        terms = plan.requested.terms(tenant=entry.tenant, arrived=arrived)
        answer = await while_connected(request, services.generations.generate(plan, terms, entry))
    with trace_of(request).root.part("respond"):
        images = images_response(request, services, fields, plan, answer.result, entry.punctuality)
        if key is not None:
            images.warnings.append(_KEY_NOT_USED)
        headers = _headers(answer)
        if fields.response_format == "file":
            return await run_in_threadpool(
                file_response,
                answer.result.images,
                warnings=images.warnings,
                headers=headers,
            )
        return ApiResponse(images.model_dump(exclude_none=True), headers=headers)


async def as_job(request: Request, services: Services, sent: SentBody) -> Response:
    """As the client prefers: nobody waits for the images, which are stored."""
    submitted = await submit_body(request, services, sent)
    applied = {"preference-applied": RESPOND_ASYNC}
    return await submitted_response(request, services, submitted, headers=applied)


def _headers(answer: Answer) -> dict[str, str]:
    headers = {"server-timing": server_timing(answer.result.timings)}
    if answer.source is not None:
        headers["x-sluice-cache"] = answer.source
    return headers


def server_timing(timings: Timings) -> str:
    """The `server-timing` header: milliseconds by phase."""
    return ", ".join(f"{phase};dur={took:.1f}" for phase, took in milliseconds(timings).items())
