"""`GET /v1/models` and `/v1/models/{id}`: what is served here, with its defaults and limits."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request

from pipelines.errors import ModelNotFound
from serve.api.openapi.failures import failures
from serve.api.services import Services, services_of
from serve.api.sizes import SizeRules
from serve.api.steps import QUALITY_STEPS, SKIPPING_QUALITY, quality_steps

router = APIRouter(tags=["models"])


class ModelDefaults(BaseModel):
    """What a request gets that names nothing but its prompt.

    Of `quality_steps`, those of `skipping_qualities` are taken partly without a forward.
    """

    size: str
    num_inference_steps: int
    guidance_scale: float
    quality_steps: dict[str, int]
    skipping_qualities: tuple[str, ...]
    deadline_ms: int | None
    priority: int


class ModelLimits(BaseModel):
    """Bounds of this model on this server; sides are pixels."""

    min_side: int
    max_side: int
    max_pixels: int
    side_multiple: int
    max_steps: int
    max_images: int
    max_prompt_chars: int
    max_deadline_ms: int


class ModelCard(BaseModel):
    """OpenAI's model object, and what a client needs to fill a form."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "sluice"
    name: str
    description: str
    license: str
    parameters: int
    tasks: tuple[str, ...]
    uses_guidance_scale: bool
    max_sequence_length: int
    defaults: ModelDefaults
    limits: ModelLimits


class ModelList(BaseModel):
    """OpenAI's list object."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


@router.get("/v1/models", responses=failures())
async def list_models(request: Request) -> ModelList:
    """The one model of this application."""
    return ModelList(data=[model_card(services_of(request))])


@router.get("/v1/models/{model_id:path}", responses=failures(ModelNotFound))
async def get_model(model_id: str, request: Request) -> ModelCard:
    """One model; 404 `model_not_found` for another name."""
    services = services_of(request)
    if model_id not in services.served_names:
        raise ModelNotFound(
            f"model: {model_id[:80]!r} is not served here; served: {services.served_names[0]}",
            model=model_id[:80],
        )
    return model_card(services)


def model_card(services: Services) -> ModelCard:
    """What is served, by the limits of the moment."""
    spec, limits, deadlines = services.spec, services.settings.limits, services.settings.deadlines
    sizes = SizeRules.of(spec, limits)
    return ModelCard(
        id=services.served_names[0],
        created=spec.created,
        name=spec.name,
        description=spec.description,
        license=spec.license,
        parameters=spec.parameters,
        tasks=spec.tasks,
        uses_guidance_scale=spec.guidance_embeds,
        max_sequence_length=spec.max_sequence_length,
        defaults=ModelDefaults(
            size=str(sizes.default),
            num_inference_steps=spec.num_inference_steps,
            guidance_scale=spec.guidance_scale,
            quality_steps={name: quality_steps(name, spec) for name in QUALITY_STEPS},
            skipping_qualities=(SKIPPING_QUALITY,),
            deadline_ms=deadlines.default_ms,
            priority=deadlines.default_priority,
        ),
        limits=ModelLimits(
            min_side=sizes.min_side,
            max_side=sizes.max_side,
            max_pixels=sizes.max_pixels,
            side_multiple=sizes.multiple,
            max_steps=limits.max_steps,
            max_images=limits.max_images,
            max_prompt_chars=limits.prompt_chars(spec),
            max_deadline_ms=deadlines.max_ms,
        ),
    )
