"""Requests with pictures, as the ingress makes them. Imports no torch and no PIL."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from pipelines.contracts import GenerationJob
from pipelines.pictures.recipe import PictureRecipe, PictureSource
from pipelines.tasks import PictureRole, PictureUse, Task
from tests.deployments.driver import make_job


def recipe(
    role: PictureRole, data: bytes, *, name: str, height: int = 64, width: int = 64, **rest: Any
) -> PictureRecipe:
    """A recipe for the file `data`, of the field `name`."""
    return PictureRecipe(
        use=PictureUse(role=role, height=height, width=width),
        source=PictureSource(sha256=hashlib.sha256(data).hexdigest(), name=name, data=data),
        **rest,
    )


def with_pictures(
    job: GenerationJob,
    recipes: tuple[PictureRecipe, ...],
    *,
    task: Task = Task.INPAINT,
    strength: float = 1.0,
) -> GenerationJob:
    """`job`, drawn from these pictures."""
    uses = tuple(each.use for each in recipes)
    params = replace(job.params, task=task, strength=strength, pictures=uses)
    return replace(job, params=params, recipes=recipes)


def painted_job(
    request_id: str = "req",
    *,
    image: bytes = b"image",
    mask: bytes = b"mask",
    strength: float = 1.0,
    paste_back: bool = True,
    **changes: Any,
) -> GenerationJob:
    """A job that paints inside a mask; `changes` are as of `make_job`."""
    job = make_job(request_id, **changes)
    size = {"height": job.params.height, "width": job.params.width}
    recipes = (
        recipe(PictureRole.IMAGE, image, name="image", **size),
        recipe(PictureRole.MASK, mask, name="mask", **size),
    )
    job = replace(job, finish=replace(job.finish, pastes_back=paste_back))
    return with_pictures(job, recipes, strength=strength)
