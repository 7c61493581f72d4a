"""The pictures that come with a request, on their way through the graph. Imports no torch.

A file goes into the object store once, and from there to the image encoder with each recipe that
makes something of it; what that makes goes on by reference: to the denoiser encoded, to classifier
and finisher as pixels. The image encoder keeps what it made lately, so it is asked rather than
waited for, and asked again where a replica was lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import ray
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from deployments.graph.attempts import retried
from deployments.graph.calls import Calls, all_or_none
from deployments.graph.request_log import RequestLog
from deployments.names import StageName
from pipelines.contracts import GenerationJob, SafetyVerdict
from pipelines.errors import ContentPolicyViolation, UnsupportedFeature
from pipelines.pictures.recipe import PictureRecipe, PictureSource
from pipelines.tasks import PictureRole, Task
from pipelines.tracing.open_spans import OpenSpan
from pipelines.tracing.spans import TRANSFER

Response = DeploymentResponse[Any]

METHODS = ("encode_image", "picture_pixels", "mask_pixels", "is_mask_empty")
"""Of the image encoder, those that follow a recipe."""


def in_object_store(data: bytes) -> Any:
    """What calls are given in the place of `data`: a reference, where there is a cluster."""
    return ray.put(data) if ray.is_initialized() else data


class PictureStages:
    """Who does something with pictures, in one application: its image encoder, None where there is
    none, and its classifier, None where that is off. `shares` gives what is passed on for a file's
    bytes."""

    def __init__(
        self,
        encoder: DeploymentHandle | None,
        classify: DeploymentHandle | None,
        *,
        shares: Callable[[bytes], Any],
    ) -> None:
        self.methods: Mapping[str, DeploymentHandle] = (
            {} if encoder is None else {name: encoder.options(method_name=name) for name in METHODS}
        )
        self.classify = classify
        self.shares = shares


class Pictures:
    """Those of one request; for one event loop.

    Raises UnsupportedFeature where the application has no image encoder.
    """

    def __init__(self, stages: PictureStages, job: GenerationJob) -> None:
        if job.recipes and not stages.methods:
            raise UnsupportedFeature(
                f"{_name(job.recipes[0])}: this server takes no pictures; ask one whose model has"
                " tasks for them, or have stages.image_encoder.enabled set",
                param=_name(job.recipes[0]),
            )
        self._stages = stages
        self._job = job
        self._log = RequestLog.of(job)
        self._files: dict[str, Any] = {}
        self._passed = asyncio.Event()

    def start_encoding(self, calls: Calls) -> tuple[Response, ...]:
        """The encodings of all of them, in order."""
        handle = self._stages.methods.get("encode_image")
        as_text = self._job.params.task is Task.VARIATION
        return tuple(
            calls.start(StageName.IMAGE_ENCODER, handle, *self._arguments(recipe), as_text=as_text)
            for recipe in self._job.recipes
            if handle is not None
        )

    def image(self, calls: Calls) -> Response:
        """The pixels of the image that is edited; there is one."""
        return self._start(calls, "picture_pixels", self._only(PictureRole.IMAGE))

    def pasted(self, calls: Calls) -> tuple[Response, ...]:
        """What a finisher pastes back: the image's pixels and the mask's, or nothing."""
        roles = {recipe.use.role for recipe in self._job.recipes}
        if not self._job.finish.pastes_back or not roles >= {PictureRole.IMAGE, PictureRole.MASK}:
            return ()
        mask = self._only(PictureRole.MASK)
        return self.image(calls), self._start(calls, "mask_pixels", mask)

    async def leave_nothing_to_draw(self, span: OpenSpan) -> bool:
        """Whether the answer is the input, as its mask covers nothing, and what it does not cover
        would be pasted back. Raises as `Calls.result`, InvalidRequest among it."""
        roles = {recipe.use.role for recipe in self._job.recipes}
        if not self._job.finish.pastes_back or not roles >= {PictureRole.IMAGE, PictureRole.MASK}:
            return False

        async def attempt(_: int) -> bool:
            with Calls(self._log) as calls:
                mask = self._only(PictureRole.MASK)
                return await self._result(calls, "is_mask_empty", mask)

        return await retried(self._log, span, attempt)

    async def check(self, span: OpenSpan) -> None:
        """Let the classifier see each picture once; `passed` returns from then on.

        Raises ContentPolicyViolation with `picture`, and as `Calls.result`.
        """
        if self._stages.classify is not None:
            shown = {
                recipe.source.sha256: recipe
                for recipe in reversed(self._job.recipes)
                if recipe.source is not None and recipe.use.role is not PictureRole.MASK
            }
            await all_or_none(*(self._check_one(recipe, span) for recipe in shown.values()))
        self._passed.set()

    async def passed(self) -> None:
        """Returns once `check` has."""
        await self._passed.wait()

    async def _check_one(self, recipe: PictureRecipe, span: OpenSpan) -> None:
        classify, name = self._stages.classify, _name(recipe)
        assert classify is not None

        async def attempt(_: int) -> SafetyVerdict:
            with Calls(self._log) as calls:
                pixels = self._start(calls, "picture_pixels", recipe)
                return await calls.result(StageName.SAFETY, classify, pixels, self._job.terms)

        with span.part("picture", gaps=TRANSFER, role=str(recipe.use.role)) as part:
            verdict = await retried(self._log, part, attempt)
            part.add(verdict.spans)
        if verdict.flagged:
            raise ContentPolicyViolation(
                f"{name}: the picture was refused by the image classifier: {verdict.category}",
                stage="picture",
                category=verdict.category,
                score=verdict.score,
                threshold=verdict.threshold,
                param=name,
                picture=name,
            )

    def _start(self, calls: Calls, method: str, recipe: PictureRecipe) -> Response:
        handle = self._stages.methods[method]
        return calls.start(StageName.IMAGE_ENCODER, handle, *self._arguments(recipe))

    async def _result(self, calls: Calls, method: str, recipe: PictureRecipe) -> Any:
        handle = self._stages.methods[method]
        return await calls.result(StageName.IMAGE_ENCODER, handle, *self._arguments(recipe))

    def _arguments(self, recipe: PictureRecipe) -> tuple[Any, ...]:
        """The recipe without its files, then these: they would travel with every call."""
        source, mask = recipe.source, recipe.mask
        without = replace(recipe, source=_without_data(source), mask=_without_data(mask))
        return without, self._file(source), self._file(mask), self._job.terms

    def _file(self, source: PictureSource | None) -> Any:
        if source is None or source.data is None:
            return None
        if source.sha256 not in self._files:
            self._files[source.sha256] = self._stages.shares(source.data)
        return self._files[source.sha256]

    def _only(self, role: PictureRole) -> PictureRecipe:
        return next(recipe for recipe in self._job.recipes if recipe.use.role is role)


def _without_data(source: PictureSource | None) -> PictureSource | None:
    return None if source is None else replace(source, data=None)


def _name(recipe: PictureRecipe) -> str:
    return "mask" if recipe.source is None else recipe.source.name
