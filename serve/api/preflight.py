"""`POST /v1/images/preflight`: what a generation would become, and when. Nothing is run or woken.

The body may be that of any route that draws: with `stream` it is drawn as a stream of events, with
a `webhook_url`, or where the client prefers `respond-async`, as a job.

What is said of time is known to this process already: nobody is asked, and no place is taken.
"""

from __future__ import annotations

import math

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request

from deployments.graph.forecast import Forecast
from deployments.metrics import declared as metrics
from pipelines.contracts import GenerationParams
from pipelines.errors import FileNotStored
from pipelines.job_shape import shape_of
from serve.api.jobs.submitting import (
    KIND,
    PREFER_PARAMETER,
    WEBHOOK_URL,
    job_plan,
    parse_job,
    wants_job,
)
from serve.api.normalise import RANDOM_SEED
from serve.api.openapi.failures import READS_GENERATION, failures
from serve.api.pictures.uploads import read_body
from serve.api.planning import pictures_of, plan_of, tenant_in
from serve.api.problems import Problems
from serve.api.schemas import JOB_BODY, ImageGenerationRequest, OutputFormat
from serve.api.services import services_of
from serve.api.treatment import Treatment, treatment_of
from serve.generation.plan import Plan

router = APIRouter(tags=["images"])


class PictureParameter(BaseModel):
    """One part that a picture plays; several of them may be the same picture."""

    role: str
    field: str | None = Field(description="null: the border that `outpaint` adds.")
    size: str = Field(description="In which it is encoded, which fits it to what is drawn.")
    kind: str | None = Field(description="Of a control map.")


class SettledParameters(BaseModel):
    """The fields of a generation, each with its final value."""

    model: str
    prompt: str = Field(description="Without its syntax, as it would be drawn.")
    negative_prompt: str | None
    prompt_weighting: bool
    n: int
    size: str
    quality: str | None = Field(description="null where the request names its steps.")
    num_inference_steps: int
    min_steps: int | None
    step_cuts: list[list[int]]
    skip_steps: bool
    guidance_scale: float
    true_cfg_scale: float
    seed: int | None = Field(description="null where it would be drawn at random.")
    output_format: OutputFormat
    output_compression: int
    deadline_ms: int | None
    priority: int
    task: str = Field(description="What is done with what comes.")
    strength: float = Field(description="1 where nothing is kept of an image.")
    paste_back: bool
    pictures: list[PictureParameter] = Field(description="What each picture is, and its size.")


class Cost(BaseModel):
    """What drawing all images would take of the server."""

    device_seconds: float | None = Field(
        description="Seconds of a denoiser, its time in shared steps by their shares; null until a"
        " denoiser has reported."
    )
    megapixel_steps: float = Field(
        description="Forwards of each image times its area in millions of pixels."
    )


class PreflightResponse(BaseModel):
    """What would be drawn, and when, as far as that is known; milliseconds from now."""

    parameters: SettledParameters
    warnings: list[str]
    treatment: dict[str, Treatment] = Field(
        description="What became of each field as it was sent, such as `extra_body.steps`."
    )
    cost: Cost
    eta_ms: int | None = Field(
        description="When the request would be answered; null until a denoiser has reported."
    )
    cold_start_ms: int = Field(description="The part of it in which stages start that sleep.")
    asleep: list[str] = Field(description="The stages that sleep.")
    queue_ms: int | None = Field(description="The part of it in which others go first, about.")
    earliest_deadline_ms: int | None = Field(
        description="About the shortest deadline that could be promised, behind all that waits."
    )
    deadline_can_be_met: bool | None = Field(
        description="Whether `deadline_ms` could; null without one, or where it is not known."
    )


@router.post(
    "/v1/images/preflight",
    responses=failures(*READS_GENERATION, FileNotStored),
    openapi_extra={**JOB_BODY, "parameters": [PREFER_PARAMETER]},
)
async def preflight_images(request: Request) -> PreflightResponse:
    """Check the body of a generation and say when it would be answered, without running it.

    It may have the `webhook_url` of a job.
    """
    services = services_of(request)
    sent = await read_body(request)
    fields, webhook = parse_job(sent)
    tenant = tenant_in(request, services, fields)
    pictures = await pictures_of(request, services, fields, tenant)
    is_job = webhook is not None or (wants_job(request) and services.jobs is not None)
    planned = job_plan if is_job else plan_of
    problems = Problems()
    found = problems.check(lambda: planned(services, fields, pictures))
    if webhook is not None:
        problems.check(lambda: services.webhooks.check(webhook))
    problems.tell()
    plan = found.value
    treatment = treatment_of(fields, plan.warnings)
    if sent.fields.get(KIND) is not None:
        treatment[KIND] = Treatment(status="used", field=KIND, reason=None)
    if webhook is not None:
        treatment[WEBHOOK_URL] = Treatment(status="used", field=WEBHOOK_URL, reason=None)
    await services.generations.check_prompt(plan)
    forecast = services.generations.forecast(plan)
    metrics.PREFLIGHTS.add()
    earliest_ms, can_be_met = _milliseconds(forecast.earliest_s), None
    if earliest_ms is not None and fields.deadline_ms is not None:
        can_be_met = fields.deadline_ms >= earliest_ms
    return PreflightResponse(
        parameters=_settled(fields, plan, services.settings.model_id),
        warnings=list(plan.warnings),
        treatment=treatment,
        cost=_cost(plan.params, forecast),
        eta_ms=_milliseconds(forecast.eta_s),
        cold_start_ms=math.ceil(forecast.cold_start_s * 1000),
        asleep=list(forecast.asleep),
        queue_ms=_milliseconds(forecast.queued_s),
        earliest_deadline_ms=earliest_ms,
        deadline_can_be_met=can_be_met,
    )


def _cost(params: GenerationParams, forecast: Forecast) -> Cost:
    pixels = params.num_images * params.height * params.width
    return Cost(
        device_seconds=forecast.device_s,
        megapixel_steps=shape_of(params).forwards * pixels / 1e6,
    )


def _settled(fields: ImageGenerationRequest, plan: Plan, model: str) -> SettledParameters:
    params = plan.params
    return SettledParameters(
        model=model,
        prompt=params.prompt,
        negative_prompt=params.negative_prompt,
        prompt_weighting=params.prompt_weighting,
        n=params.num_images,
        size=f"{params.width}x{params.height}",
        quality=plan.quality,
        num_inference_steps=params.num_inference_steps,
        min_steps=params.min_inference_steps,
        step_cuts=[list(cut) for cut in params.planned_cuts],
        skip_steps=params.skips_steps,
        guidance_scale=params.guidance_scale,
        true_cfg_scale=params.true_cfg_scale,
        seed=None if fields.seed in (None, RANDOM_SEED) else params.seed,
        output_format=fields.output_format,
        output_compression=plan.finish.output_compression,
        deadline_ms=plan.requested.deadline_ms,
        priority=plan.requested.priority,
        task=str(params.task),
        strength=params.strength,
        paste_back=plan.finish.pastes_back,
        pictures=[
            PictureParameter(
                role=str(each.use.role),
                field=None if each.source is None else each.source.name,
                size=f"{each.use.width}x{each.use.height}",
                kind=each.use.kind or None,
            )
            for each in plan.recipes
        ],
    )


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else math.ceil(seconds * 1000)
