"""`POST /v1/images/generations`: OpenAI's route, over the graph."""

from __future__ import annotations

import re
import secrets
import time

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from pipelines.contracts import FinishedImage, GenerationJob, GenerationResult, Timings, Usage
from serve.api.disconnect import while_connected
from serve.api.errors import ApiResponse
from serve.api.generation_log import generation_log
from serve.api.json_body import read_json_object
from serve.api.normalise import Plan, normalise
from serve.api.schemas import (
    ImageData,
    ImageGenerationRequest,
    ImagesResponse,
    InputTokens,
    OutputTokens,
    UsageReport,
    parse_request,
)
from serve.api.services import Services, services_of

_RANDOM_SEED_BITS = 32
"""Drawn seeds stay exact in clients whose numbers are doubles."""

_TRACE_HEADERS = ("traceparent", "tracestate", "baggage")

router = APIRouter(tags=["images"])


@router.post(
    "/v1/images/generations",
    response_model=ImagesResponse,
    # The body is read by hand, strictly; this documents it.
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": ImageGenerationRequest.model_json_schema()}},
        }
    },
)
async def generate_images(request: Request) -> Response:
    """Draw `n` images from a prompt; 400 names the field that is wrong and what is allowed."""
    services = services_of(request)
    fields = parse_request(await read_json_object(request))
    with generation_log(request, fields) as entry:
        plan = await _plan(services, fields)
        entry.params = plan.params
        result = await _generate(request, services, plan)
    return ApiResponse(
        _images_response(request, services, fields, plan, result).model_dump(exclude_none=True),
        headers={"server-timing": server_timing(result.timings)},
    )


async def _plan(services: Services, fields: ImageGenerationRequest) -> Plan:
    """What to draw. Raises InvalidRequest, ModelNotFound or ContentPolicyViolation."""
    plan = normalise(
        fields,
        spec=services.spec,
        limits=services.settings.limits,
        served_names=services.served_names,
        random_seed=secrets.randbits(_RANDOM_SEED_BITS),
    )
    if services.rules is not None:
        # The negative prompt names what to leave out: refusing it would make images less safe.
        # In a thread: the longest prompts take a quarter of a second.
        await run_in_threadpool(services.rules.check, plan.params.prompt, param="prompt")
    return plan


async def _generate(request: Request, services: Services, plan: Plan) -> GenerationResult:
    """Draw it, while the client waits. Raises Overloaded, ClientGone and what the graph raises."""
    job = GenerationJob(
        request_id=request.state.request_id,
        params=plan.params,
        finish=plan.finish,
        trace_context={
            name: request.headers[name] for name in _TRACE_HEADERS if name in request.headers
        },
    )
    with services.admission.slot():
        return await while_connected(request, services.graph.generate(job))


def _images_response(
    request: Request,
    services: Services,
    fields: ImageGenerationRequest,
    plan: Plan,
    result: GenerationResult,
) -> ImagesResponse:
    base_url = (services.settings.public_url or str(request.base_url)).rstrip("/")
    size = f"{plan.params.width}x{plan.params.height}"
    return ImagesResponse(
        created=int(time.time()),
        model=services.settings.model_id,
        data=[_image(image, plan, base_url) for image in result.images],
        output_format=fields.output_format,
        quality=plan.quality,
        size=size,
        usage=_usage(result.usage),
        warnings=[*plan.warnings, *result.warnings],
    )


def _image(image: FinishedImage, plan: Plan, base_url: str) -> ImageData:
    return ImageData(
        b64_json=image.b64,
        url=None if image.file_id is None else f"{base_url}/v1/files/{image.file_id}",
        revised_prompt=plan.revised_prompt,
        seed=image.seed,
    )


def _usage(usage: Usage) -> UsageReport:
    return UsageReport(
        input_tokens=usage.input_tokens,
        input_tokens_details=InputTokens(text_tokens=usage.input_tokens),
        output_tokens=usage.output_tokens,
        output_tokens_details=OutputTokens(image_tokens=usage.output_tokens),
        total_tokens=usage.total_tokens,
    )


def server_timing(timings: Timings) -> str:
    """The `server-timing` header: milliseconds by phase."""
    return ", ".join(
        f"{re.sub('[^A-Za-z0-9_]', '_', phase)};dur={seconds * 1000:.1f}"
        for phase, seconds in timings.items()
    )
