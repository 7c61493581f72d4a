"""An image of a request on its way through the graph, and what is known of it at either end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from deployments.graph.progress import ImageProgress
from deployments.storage.parameters import parameters_text
from deployments.wire.packed import PackedLatents, PromptFacts
from pipelines.contracts import (
    FinishedImage,
    FinishSpec,
    GenerationJob,
    GenerationParams,
    SafetyVerdict,
    Usage,
)
from pipelines.errors import ContentPolicyViolation
from pipelines.job_shape import shape_of


class Image(NamedTuple):
    """One image of a request; `group` is the request's own name among the denoiser's works."""

    job: GenerationJob
    index: int
    group: str
    progress: ImageProgress


class Drawn(NamedTuple):
    """A finished image, its prompts, the seconds from its start, the steps it went on from, and the
    stages whose start it waited for."""

    file: FinishedImage
    prompts: tuple[PromptFacts, ...]
    seconds: float
    resumed_at: tuple[int, ...]
    cold_stages: tuple[str, ...]


def finish_spec(job: GenerationJob, index: int, latents: PackedLatents) -> FinishSpec:
    """How image `index` is finished: with its own seed, and a text about what was really drawn."""
    spec = replace(job.finish, seed=job.params.seed + index)
    text = parameters_text(job.params, spec, steps_run=latents.steps_run, cuts=latents.cuts)
    return replace(spec, parameters=text)


def refuse_if_flagged(verdict: SafetyVerdict, index: int) -> None:
    """Raises ContentPolicyViolation for image `index` if it was flagged."""
    if verdict.flagged:
        raise ContentPolicyViolation(
            f"image {index} was refused by the image classifier: {verdict.category}",
            stage="image",
            category=verdict.category,
            score=verdict.score,
            threshold=verdict.threshold,
            image_index=index,
        )


def pixel_count(params: GenerationParams) -> int:
    """Pixels of one image of the request."""
    return params.height * params.width


def usage_of(params: GenerationParams, facts: Sequence[PromptFacts]) -> Usage:
    """Text tokens in, latent tokens out."""
    return Usage(
        input_tokens=sum(item.num_tokens for item in facts),
        output_tokens=params.num_images * shape_of(params).image_tokens,
    )
