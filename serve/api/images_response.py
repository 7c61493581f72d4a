"""From an answer to OpenAI's response: what was drawn, what it took, and every warning."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from starlette.requests import Request

from pipelines.contracts import FinishedImage, GenerationParams, GenerationResult, Usage
from pipelines.tracing.spans import Timings
from serve.api.links import base_url
from serve.api.schemas import (
    ImageData,
    ImageGenerationRequest,
    ImagesResponse,
    InputTokens,
    OutputTokens,
    UsageReport,
)
from serve.api.services import Services
from serve.generation.plan import Plan, Punctuality

TOTAL, GENERATION = "total", "generation"
"""The phase of `Timings` that is all of them together, and its name for clients."""


def images_response(
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
        id=request.state.request_id,
        created=int(time.time()),
        model=services.settings.model_id,
        data=[_image(image, plan, start) for image in result.images],
        output_format=fields.output_format,
        quality=plan.quality,
        size=size,
        usage=usage_report(result.usage),
        deadline_met=None if punctuality is None else punctuality.is_met,
        inference_time_s=result.timings.get(TOTAL),
        metrics=milliseconds(result.timings) if fields.return_stage_metrics else None,
        warnings=[
            *plan.warnings,
            *result.warnings,
            *_missed(punctuality),
            *_cut_short(plan.params, result.images, punctuality),
            *_not_stored(result.images),
            *_cold_start(result),
        ],
    )


def milliseconds(timings: Timings) -> dict[str, float]:
    """By phase, and all of them as `generation`, as other servers call it."""
    whole = {GENERATION: timings[TOTAL]} if TOTAL in timings else {}
    return {
        re.sub("[^A-Za-z0-9_]", "_", phase): round(seconds * 1000, 1)
        for phase, seconds in {**whole, **timings}.items()
    }


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


def usage_report(usage: Usage) -> UsageReport:
    pictures = usage.input_image_tokens
    details = InputTokens(text_tokens=usage.input_tokens - pictures, image_tokens=pictures)
    return UsageReport(
        input_tokens=usage.input_tokens,
        input_tokens_details=details,
        prompt_tokens_details=details,
        output_tokens=usage.output_tokens,
        output_tokens_details=OutputTokens(image_tokens=usage.output_tokens),
        total_tokens=usage.total_tokens,
        device_seconds=round(usage.device_seconds, 6),
        megapixel_steps=round(usage.megapixel_steps, 6),
    )
