"""`POST /v1/images/generations`: OpenAI's route: to a plan, and from an answer."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from pipelines.contracts import FinishedImage, GenerationParams, GenerationResult, Usage
from pipelines.tracing.spans import Timings
from serve.api.disconnect import while_connected
from serve.api.file_response import file_response
from serve.api.json_body import read_json_object
from serve.api.links import base_url
from serve.api.openapi.failures import DRAWS, READS_GENERATION, failures
from serve.api.planning import log_entry, plan_of, tenant_in, trace_of
from serve.api.schemas import (
    GENERATION_BODY,
    ImageData,
    ImageGenerationRequest,
    ImagesResponse,
    InputTokens,
    OutputTokens,
    UsageReport,
    parse_request,
)
from serve.api.services import Services, services_of
from serve.error_responses import ApiResponse
from serve.generation.plan import Plan, Punctuality
from serve.generation.sharing import Answer

_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "headers": {
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
        },
        "content": {
            media_type: {"schema": {"type": "string", "format": "binary"}}
            for media_type in ("image/png", "image/jpeg", "image/webp", "application/zip")
        },
    },
    **failures(*READS_GENERATION, *DRAWS),
}

router = APIRouter(tags=["images"])


@router.post(
    "/v1/images/generations",
    response_model=ImagesResponse,
    responses=_RESPONSES,
    openapi_extra=GENERATION_BODY,
)
async def generate_images(request: Request) -> Response:
    """Draw `n` images from a prompt; 400 names the field that is wrong and what is allowed."""
    services = services_of(request)
    arrived = services.now()
    trace = trace_of(request)
    with trace.root.part("read"):
        fields = parse_request(await read_json_object(request))
    with services.generations.logged(log_entry(request, fields, arrived)) as entry:
        entry.tenant = tenant_in(request, services, fields)
        plan = plan_of(services, fields)
        terms = plan.requested.terms(tenant=entry.tenant, arrived=arrived)
        answer = await while_connected(request, services.generations.generate(plan, terms, entry))
    with trace.root.part("respond"):
        body = _images_response(request, services, fields, plan, answer.result, entry.punctuality)
        headers = _headers(answer)
        if fields.response_format == "file":
            return await run_in_threadpool(
                file_response,
                answer.result.images,
                warnings=body.warnings,
                headers=headers,
            )
        return ApiResponse(body.model_dump(exclude_none=True), headers=headers)


def _images_response(
    request: Request,
    services: Services,
    fields: ImageGenerationRequest,
    plan: Plan,
    result: GenerationResult,
    punctuality: Punctuality | None,
) -> ImagesResponse:
    start = base_url(request, services.settings.public_url)
    size = f"{plan.params.width}x{plan.params.height}"
    return ImagesResponse(
        created=int(time.time()),
        model=services.settings.model_id,
        data=[_image(image, plan, start) for image in result.images],
        output_format=fields.output_format,
        quality=plan.quality,
        size=size,
        usage=_usage(result.usage),
        deadline_met=None if punctuality is None else punctuality.is_met,
        warnings=[
            *plan.warnings,
            *result.warnings,
            *_missed(punctuality),
            *_cut_short(plan.params, result.images, punctuality),
            *_not_stored(result.images),
            *_cold_start(result),
        ],
    )


def _image(image: FinishedImage, plan: Plan, links_begin: str) -> ImageData:
    return ImageData(
        b64_json=image.b64,
        url=None if image.file_id is None else f"{links_begin}/v1/files/{image.file_id}",
        revised_prompt=plan.revised_prompt,
        seed=image.seed,
        steps=image.steps_run,
    )


def _missed(punctuality: Punctuality | None) -> list[str]:
    """A warning, if there was a deadline and the answer is late."""
    if punctuality is None or punctuality.is_met:
        return []
    wanted, took = punctuality.deadline_ms, punctuality.took_ms
    return [f"deadline_ms: missed; the answer took {took} ms instead of {wanted}"]


def _cut_short(
    params: GenerationParams, images: Sequence[FinishedImage], punctuality: Punctuality | None
) -> list[str]:
    """A warning for each image that got fewer steps than were asked for, as `min_steps` allows."""
    if params.min_inference_steps is None:
        return []
    wanted = params.num_inference_steps
    is_kept = punctuality is not None and punctuality.is_met
    why = "to keep the deadline" if is_kept else "and the deadline was missed all the same"
    return [
        f"min_steps: image {index} was drawn in {image.steps_run} of {wanted} steps, {why}"
        for index, image in enumerate(images)
        if image.steps_run is not None and image.steps_run < wanted
    ]


def _not_stored(images: Sequence[FinishedImage]) -> list[str]:
    """A warning for each image that comes as base64, as it could not be stored for a link."""
    return [
        f"response_format: image {index} is in b64_json and has no url: {image.not_stored}"
        for index, image in enumerate(images)
        if image.not_stored
    ]


def _cold_start(result: GenerationResult) -> list[str]:
    """A warning that names the stages whose start the request waited for."""
    if not result.cold_stages:
        return []
    *others, last = result.cold_stages
    stages, whose = (f"{', '.join(others)} and {last}", "their") if others else (last, "its")
    return [
        f"cold start: {stages} slept; {result.timings['cold_start']:.1f} s of this request were"
        f" {whose} start"
    ]


def _usage(usage: Usage) -> UsageReport:
    return UsageReport(
        input_tokens=usage.input_tokens,
        input_tokens_details=InputTokens(text_tokens=usage.input_tokens),
        output_tokens=usage.output_tokens,
        output_tokens_details=OutputTokens(image_tokens=usage.output_tokens),
        total_tokens=usage.total_tokens,
    )


def _headers(answer: Answer) -> dict[str, str]:
    headers = {"server-timing": server_timing(answer.result.timings)}
    if answer.source is not None:
        headers["x-sluice-cache"] = answer.source
    return headers


def server_timing(timings: Timings) -> str:
    """The `server-timing` header: milliseconds by phase."""
    return ", ".join(
        f"{re.sub('[^A-Za-z0-9_]', '_', phase)};dur={seconds * 1000:.1f}"
        for phase, seconds in timings.items()
    )
