"""Stand-ins for what a test of one part does not want to load, with the interface of the real one.

`LocalHandle` is a Serve handle over an object in this event loop: its calls run concurrently, wait
for the responses among their arguments, stream, and can be cancelled. The fake stages hand on jobs
and numbers where the real ones hand on tensors; the graph looks at neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from deployments.graph.steering.steering import NO_CONTROLS, Controls
from deployments.stage_table import STAGES
from deployments.stages.local_handle import LocalHandle
from deployments.wire.packed import (
    Denoising,
    HandOver,
    PackedCheckpoint,
    PackedLatents,
    PackedTensor,
    PromptFacts,
)
from pipelines.contracts import (
    Cut,
    FinishedImage,
    FinishSpec,
    LatentJob,
    SafetyVerdict,
    ServiceTerms,
    StepEvent,
    TextPrompt,
)
from pipelines.pictures.recipe import PictureRecipe
from pipelines.previews.preview import Preview
from pipelines.prompts.unread_text import DroppedText, UnreadText


class FakeClassifier:
    """An image classifier that flags images whose mean level is at least `flag_from`."""

    def __init__(self, flag_from: float = 256.0) -> None:
        self.flag_from = flag_from
        self.batches: list[int] = []

    def classify(self, images: Sequence[np.ndarray]) -> list[SafetyVerdict]:
        """One verdict per image, in order; the score is the mean level over 255."""
        self.batches.append(len(images))
        return [
            SafetyVerdict(
                flagged=bool(image.mean() >= self.flag_from),
                category="sexual",
                score=float(image.mean()) / 255,
                threshold=min(self.flag_from / 255, 1.0),
                classifier="fake",
            )
            for image in images
        ]


Hook = Callable[[LatentJob], Awaitable[None]]


async def _nothing(*_: object) -> None:
    return


STEP_S = 0.25
"""What a step of the stand-in is said to cost."""


class FakePicture(NamedTuple):
    """Stands for the pixels of a picture that a request brought along in its field `name`."""

    name: str
    width: int
    height: int


class GoesAway(Exception):
    """Raised by a hook: the denoiser's replica hands its works over."""


@dataclass
class FakeStages:
    """All stages in one object, with hooks for what should go wrong.

    `on_denoise` and `on_decode` are awaited with the image's job, `on_step` also with each step
    that was run; they may raise or wait. The denoiser yields a checkpoint after every
    `checkpoint_every` steps. `flagged_seeds` are refused by the classifier. `started` are the jobs
    that reached the denoiser and `steps` what it ran, as (seed, step); `decoded` counts calls;
    `terms` are those that decoder and classifier were given; the other lists record what was run to
    its end.
    """

    on_denoise: Hook = _nothing
    on_step: Callable[[LatentJob, int], Awaitable[None]] = _nothing
    on_decode: Hook = _nothing
    on_encode: Callable[[TextPrompt], Awaitable[None]] | None = None
    on_picture: Callable[[str, PictureRecipe], Awaitable[None]] = _nothing
    """Awaited with the method of the image encoder and what it is asked for."""
    flagged_pictures: tuple[str, ...] = ()
    """Names of pictures that the classifier refuses."""
    is_empty: bool = False
    """Whether masks cover nothing."""
    pictures: list[tuple[str, str, bytes | None]] = field(default_factory=list)
    """What the image encoder was asked for: method, role, and the file's bytes."""
    given: list[tuple[str, ...]] = field(default_factory=list)
    """The pictures that each call to denoise was given."""
    classified: list[str] = field(default_factory=list)
    """The names of pictures that were classified."""
    pasted: list[tuple[object, ...]] = field(default_factory=list)
    """What each call to finish was given beside the image."""
    checkpoint_every: int = 2
    flagged_seeds: tuple[int, ...] = ()
    dropped_text: str = ""
    encoded: list[str] = field(default_factory=list)
    started: list[LatentJob] = field(default_factory=list)
    steps: list[tuple[int, int]] = field(default_factory=list)
    denoised: list[LatentJob] = field(default_factory=list)
    cancelled: list[LatentJob] = field(default_factory=list)
    wished: dict[str, Controls] = field(default_factory=dict)
    """What is asked of each group of works."""
    steered: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    """Released whenever something is asked of works that are here."""
    previewed: list[bool] = field(default_factory=list)
    """Whether previews were asked for, by call; if so, each step has one."""
    told_every_s: list[float | None] = field(default_factory=list)
    decoded: int = 0
    terms: list[ServiceTerms] = field(default_factory=list)
    finished: list[FinishSpec] = field(default_factory=list)
    is_ready: bool = True
    tells_steps: bool = False
    """Whether the denoiser yields each step, however little time it took."""

    def handles(self) -> dict[str, Any]:
        return {row.key: LocalHandle(self) for row in STAGES}

    def _unread(self) -> UnreadText:
        dropped = DroppedText("T5", self.dropped_text, max_tokens=512)
        return UnreadText(dropped=(dropped,) if self.dropped_text else ())

    async def encode(self, prompt: TextPrompt) -> str:
        if self.on_encode is not None:
            await self.on_encode(prompt)
        self.encoded.append(prompt.prompt)
        return prompt.prompt

    async def denoise(
        self,
        job: LatentJob,
        *encodings: str | None,
        start: PackedCheckpoint | None = None,
        caller: str = "",
        step_every_s: float | None = None,
        controls: Controls = NO_CONTROLS,
        previews: bool = False,
    ) -> AsyncIterator[Denoising]:
        conditionings = [each for each in encodings[:2] if each is not None]
        self.given.append(tuple(str(each) for each in encodings[2:]))
        assert all(isinstance(item, str) for item in (*conditionings, *encodings[2:]))
        self.told_every_s.append(step_every_s)
        self.wished[job.group] = controls
        self.previewed.append(previews)
        mark = _packed(len(self.started))
        self.started.append(job)
        step, num_steps = 0 if start is None else start.step, job.sampling.num_inference_steps
        cuts: tuple[Cut, ...] = ()
        try:
            await self.on_denoise(job)
            while step < num_steps:
                if self.wished[job.group].keep and 0 < step < num_steps - 1:
                    cuts, num_steps = (Cut(step, step + 1),), step + 1
                step += 1
                self.steps.append((job.sampling.seed, step))
                await self.on_step(job, step)
                if self.tells_steps and step_every_s is not None:
                    yield StepEvent(work_id=job.work_id, step=step, num_steps=num_steps)
                shows = self.wished[job.group].previews
                if (previews if shows is None else shows) and step < num_steps:
                    yield _preview(job, step, num_steps)
                if step % self.checkpoint_every == 0 and step < num_steps:
                    yield PackedCheckpoint(step=step, latents=mark, device_seconds=STEP_S * step)
        except GoesAway:
            if step:
                yield PackedCheckpoint(step=step, latents=mark, device_seconds=STEP_S * step)
            yield HandOver()
            return
        except asyncio.CancelledError:
            self.cancelled.append(job)
            raise
        self.denoised.append(job)
        yield PackedLatents(
            packed=mark,
            height=job.sampling.height,
            width=job.sampling.width,
            steps_run=step,
            cuts=cuts,
            device_seconds=STEP_S * step,
            prompts=tuple(
                PromptFacts(num_tokens=len(text), unread=self._unread()) for text in conditionings
            ),
        )

    async def steer(self, group: str, controls: Controls) -> None:
        self.wished[group] = controls
        self.steered.release()

    async def decode(self, latents: PackedLatents, terms: ServiceTerms) -> LatentJob:
        self.decoded += 1
        self.terms.append(terms)
        job = self.started[int(latents.packed.values)]
        await self.on_decode(job)
        return job

    async def encode_image(
        self,
        recipe: PictureRecipe,
        source: bytes | None,
        mask: bytes | None,
        terms: ServiceTerms,
        as_text: bool = False,
    ) -> str:
        await self._asked_for("encode_image", recipe, source)
        return f"{recipe.use.role} {'read' if as_text else 'encoded'}"

    async def picture_pixels(
        self, recipe: PictureRecipe, source: bytes | None, mask: bytes | None, terms: ServiceTerms
    ) -> FakePicture:
        await self._asked_for("picture_pixels", recipe, source)
        assert recipe.source is not None
        return FakePicture(recipe.source.name, recipe.use.width, recipe.use.height)

    async def mask_pixels(
        self, recipe: PictureRecipe, source: bytes | None, mask: bytes | None, terms: ServiceTerms
    ) -> str:
        await self._asked_for("mask_pixels", recipe, source)
        return "mask"

    async def is_mask_empty(
        self, recipe: PictureRecipe, source: bytes | None, mask: bytes | None, terms: ServiceTerms
    ) -> bool:
        await self._asked_for("is_mask_empty", recipe, source)
        return self.is_empty

    async def _asked_for(self, method: str, recipe: PictureRecipe, source: bytes | None) -> None:
        assert recipe.source is None or recipe.source.data is None, "files travel beside recipes"
        self.pictures.append((method, str(recipe.use.role), source))
        await self.on_picture(method, recipe)

    async def classify(self, image: LatentJob | FakePicture, terms: ServiceTerms) -> SafetyVerdict:
        self.terms.append(terms)
        if isinstance(image, FakePicture):
            self.classified.append(image.name)
            flagged = image.name in self.flagged_pictures
        else:
            flagged = image.sampling.seed in self.flagged_seeds
        return SafetyVerdict(
            flagged=flagged,
            category="sexual",
            score=0.9,
            threshold=0.8,
            classifier="fake",
            timings={"safety_wait": 0.0, "safety": 0.25},
        )

    async def finish(
        self, image: LatentJob | FakePicture, spec: FinishSpec, *pasted: object
    ) -> FinishedImage:
        self.finished.append(spec)
        self.pasted.append(pasted)
        size = image if isinstance(image, FakePicture) else image.sampling
        return FinishedImage(
            b64="",
            file_id=None,
            output_format=spec.output_format,
            width=size.width,
            height=size.height,
            seed=spec.seed,
            sha256=spec.parameters,
            num_bytes=0,
            timings={"denoise": 0.5},
        )

    async def ready(self) -> bool:
        if not self.is_ready:
            await asyncio.sleep(3600)
        return True


def _preview(job: LatentJob, step: int, num_steps: int) -> Preview:
    return Preview(
        work_id=job.work_id,
        step=step,
        num_steps=num_steps,
        data=b"a picture",
        media_type="image/jpeg",
        width=job.sampling.width,
        height=job.sampling.height,
    )


def _packed(number: int) -> PackedTensor:
    """Stands for latents; the graph never looks inside."""
    return PackedTensor(values=np.array(number), dtype="int64")
