"""An image of a request on its way through the graph, and what is known of it at either end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from deployments.graph.listening.listener import Listener
from deployments.graph.listening.progress_reporter import ProgressReporter
from deployments.graph.steering.steering import NO_CONTROLS, Controls, Steering
from deployments.graph.warnings import untouched_warnings, warnings_for
from deployments.storage.parameters import parameters_text
from deployments.storage.receipt import receipt_text
from deployments.wire.packed import PackedCheckpoint, PromptFacts
from deployments.wire.parts import ImageCheckpoint, ImageDrawn, Part
from pipelines.contracts import (
    FinishedImage,
    FinishSpec,
    GenerationJob,
    GenerationParams,
    GenerationResult,
    SafetyVerdict,
    Usage,
)
from pipelines.cuts import Cut
from pipelines.errors import ContentPolicyViolation
from pipelines.families import family_named
from pipelines.job_shape import shape_of
from pipelines.tasks import PictureRole


class Image(NamedTuple):
    """One image of a request, to go on from `start` if given; `group` is the request's own name
    among the denoiser's works, `steering` what else is asked of it."""

    job: GenerationJob
    index: int
    group: str
    progress: ProgressReporter
    steering: Steering | None = None
    start: PackedCheckpoint | None = None

    @classmethod
    def of(
        cls,
        job: GenerationJob,
        index: int,
        group: str,
        listener: Listener,
        steering: Steering | None,
        part: Part | None,
    ) -> Image:
        """Image `index` of `job`, of which `part` is done."""
        start = part.checkpoint if isinstance(part, ImageCheckpoint) else None
        progress = ProgressReporter(index, job.params, listener, start=start)
        return cls(job, index, group, progress, steering, start)

    @property
    def controls(self) -> Controls:
        """What is asked of it, as of now."""
        return NO_CONTROLS if self.steering is None else self.steering.controls


NO_PROMPT = (PromptFacts(num_tokens=0),)
"""Of an image for which no prompt was read."""


class Drawn(NamedTuple):
    """A finished image, its prompts, the seconds from its start, the steps it went on from, and the
    stages whose start it waited for."""

    file: FinishedImage
    prompts: tuple[PromptFacts, ...]
    seconds: float
    resumed_at: tuple[int, ...]
    cold_stages: tuple[str, ...]


def drawn_before(job: GenerationJob, resume: Mapping[int, Part]) -> dict[int, Drawn]:
    """Of a request that is taken up again, the images that need not be drawn, by their index.

    Raises ValueError for an image that the request does not have.
    """
    count = job.params.num_images
    if not all(0 <= index < count for index in resume):
        raise ValueError(f"resume: has images {sorted(resume)} of a request of {count}")
    return {
        index: Drawn(part.file, part.prompts, 0.0, (), ())
        for index, part in resume.items()
        if isinstance(part, ImageDrawn)
    }


def tell_drawn(job: GenerationJob, drawn: Mapping[int, Drawn], listener: Listener) -> None:
    """Tell that these images of `job` are there already."""
    for index, image in drawn.items():
        ProgressReporter(index, job.params, listener).was_drawn(image.file)


def result_of(
    params: GenerationParams, drawn: Mapping[int, Drawn], total_s: float
) -> GenerationResult:
    """Of a request whose images, by their index, were all drawn within `total_s`."""
    images = [drawn[index] for index in range(params.num_images)]
    facts = images[0].prompts
    slowest = max(images, key=lambda image: image.seconds)
    return GenerationResult(
        images=tuple(image.file for image in images),
        usage=usage_of(params, facts, [image.file for image in images]),
        warnings=(
            *warnings_for(params, *facts),
            *untouched_warnings(image.file.steps_run == 0 for image in images),
        ),
        timings={**slowest.file.timings, "total": total_s},
        resumed_at=tuple(step for image in images for step in image.resumed_at),
        cold_stages=slowest.cold_stages,
    )


def finish_spec(
    job: GenerationJob, index: int, *, steps_run: int, cuts: Sequence[Cut]
) -> FinishSpec:
    """How image `index` is finished: with its own seed, and with a text and a receipt of what was
    really drawn: in `steps_run` forwards, the schedule changed by `cuts`."""
    spec = replace(job.finish, seed=job.params.seed + index)
    text, receipt = (
        write(job.params, spec, job.recipes, steps_run=steps_run, cuts=cuts)
        for write in (parameters_text, receipt_text)
    )
    return replace(spec, parameters=text, receipt=receipt)


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


def usage_of(
    params: GenerationParams, facts: Sequence[PromptFacts], files: Sequence[FinishedImage]
) -> Usage:
    """Of a request with these prompts and images. What was not drawn took nothing in."""
    drawn = sum(file.steps_run != 0 for file in files)
    picture_tokens = input_picture_tokens(params) if drawn else 0
    return Usage(
        input_tokens=sum(item.num_tokens for item in facts) + picture_tokens,
        input_image_tokens=picture_tokens,
        output_tokens=drawn * shape_of(params).image_tokens,
        device_seconds=sum(file.device_seconds for file in files),
        megapixel_steps=sum(file.megapixel_steps for file in files),
    )


def input_picture_tokens(params: GenerationParams) -> int:
    """Image tokens of the pictures that a request brings along, masks not counted: they say where,
    and not what."""
    family = family_named(params.family)
    return sum(
        family.image_tokens(picture.height, picture.width)
        for picture in params.pictures
        if picture.role is not PictureRole.MASK
    )
