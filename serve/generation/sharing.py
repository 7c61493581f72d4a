"""Draws each exact request of a tenant once: equal ones under way share, equal later ones are kept.

Exact means that tenant, parameters and file are the same, the seed included; nothing is shared
between tenants. A request that allows fewer steps (`min_inference_steps`) is always drawn by
itself: what it gets depends on when it is asked for. So is one that is steered, or taken up again.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from contextvars import Context
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

from deployments.graph.listening.listener import Broadcast, Listener, unheard
from deployments.graph.steering.steering import Steering
from deployments.single_flight import SingleFlight
from deployments.storage.store import StoredFile
from deployments.wire.parts import NOTHING_DONE, Part
from pipelines.contracts import (
    FinishSpec,
    GenerationJob,
    GenerationParams,
    GenerationResult,
    ServiceTerms,
)
from pipelines.errors import DeadlineUnreachable, FileNotStored, StageFailed
from pipelines.pictures.recipe import PictureRecipe, PictureSource
from pipelines.tracing.open_spans import OpenSpan
from serve.generation.result_cache import ResultCache

_ENTRY_BYTES = 2048
"""Of an answer besides its images and its texts."""


class ExactRequest(NamedTuple):
    """What decides on an answer, and whose it is."""

    tenant: str
    params: GenerationParams
    finish: FinishSpec
    pictures: tuple[PictureRecipe, ...] = ()

    @classmethod
    def of(cls, job: GenerationJob) -> ExactRequest:
        return cls(
            job.terms.tenant,
            job.params,
            job.finish,
            tuple(map(_without_files, job.recipes)),
        )


def _without_files(recipe: PictureRecipe) -> PictureRecipe:
    """`recipe` with digests alone: however a file came, it is the same picture."""

    def digest(source: PictureSource | None) -> PictureSource | None:
        return None if source is None else PictureSource(sha256=source.sha256, name="")

    return replace(recipe, source=digest(recipe.source), mask=digest(recipe.mask))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A result, and where it comes from: None if it was drawn for this request."""

    result: GenerationResult
    source: Literal["hit", "shared"] | None = None


class _Leader(NamedTuple):
    """The request of several equal ones that is drawn, its number, which names its flight, the
    `traceparent` of its spans, its progress for all of them, and how it is steered for them: it is
    shown once anybody wants to see it."""

    terms: ServiceTerms
    number: int
    trace: str
    progress: Broadcast
    steering: Steering


class Draw(Protocol):
    """`ImageGraph.generate`."""

    def __call__(
        self,
        job: GenerationJob,
        log: OpenSpan,
        listener: Listener,
        *,
        resume: Mapping[int, Part] = NOTHING_DONE,
        steering: Steering | None = None,
    ) -> Coroutine[Any, Any, GenerationResult]: ...


class Sharing:
    """Answers jobs through `draw`, as seldom as it can. For one event loop.

    `read` gets a stored file, or raises FileNotStored; it blocks. `context_of` makes the context in
    which a job of that request id is drawn. `clock` is in seconds and does not go back.
    """

    def __init__(
        self,
        draw: Draw,
        read: Callable[[str], StoredFile],
        cache: ResultCache[ExactRequest, GenerationResult],
        *,
        context_of: Callable[[str], Context],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._draw = draw
        self._read = read
        self._cache = cache
        self._context_of = context_of
        self._clock = clock
        self._flights: SingleFlight[int, GenerationResult] = SingleFlight()
        self._leaders: dict[ExactRequest, _Leader] = {}
        self._started = 0

    async def answer(
        self,
        job: GenerationJob,
        log: OpenSpan | None = None,
        listener: Listener = unheard,
        *,
        resume: Mapping[int, Part] = NOTHING_DONE,
        steering: Steering | None = None,
    ) -> Answer:
        """The images of `job`, what is done for them being added to `log`. Raises what drawing
        raises. `listener` is told how far they are, whoever's request is drawn; of images that were
        kept, nothing. With `resume` or `steering`, it is drawn by itself, whoever draws its like,
        and the images are nobody else's."""
        log = OpenSpan("answer") if log is None else log
        if job.params.min_inference_steps is not None or resume or steering is not None:
            return Answer(
                result=await self._draw(job, log, listener, resume=resume, steering=steering)
            )
        key = ExactRequest.of(job)
        if (kept := await self._kept(key)) is not None:
            return Answer(result=_again(kept), source="hit")
        while (leader := self._leader_for(key, job.terms)) is not None:
            try:
                with log.part("shared") as part:
                    part.links += filter(None, [leader.trace])
                    with leader.progress.heard_by(listener):
                        if listener.wants_previews:
                            leader.steering.previews(True)
                        result = await self._fly(key, leader, job, log)
                    return Answer(result=result, source="shared")
            except DeadlineUnreachable:
                # It was the leader's deadline, which says nothing of one that is later.
                continue
        self._started += 1
        leader = self._leaders[key] = _Leader(
            job.terms, self._started, job.trace, Broadcast(), Steering()
        )
        with leader.progress.heard_by(listener):
            return Answer(result=await self._fly(key, leader, job, log))

    def _leader_for(self, key: ExactRequest, terms: ServiceTerms) -> _Leader | None:
        """An equal request under way that serves as well as a drawing of one's own, or None."""
        leader = self._leaders.get(key)
        if leader is None or not self._flights.is_running(leader.number):
            return None
        return leader if may_join(terms, leader.terms) else None

    async def _fly(
        self, key: ExactRequest, leader: _Leader, job: GenerationJob, log: OpenSpan
    ) -> GenerationResult:
        """The result of the leader's flight, which is begun if it has not."""
        try:
            return await self._flights.run(
                leader.number,
                lambda: self._draw_and_keep(key, job, log, leader),
                context=self._context_of(job.request_id),
            )
        finally:
            ended = not self._flights.is_running(leader.number)
            if ended and self._leaders.get(key) is leader:
                del self._leaders[key]

    async def _draw_and_keep(
        self, key: ExactRequest, job: GenerationJob, log: OpenSpan, leader: _Leader
    ) -> GenerationResult:
        # From the start, because its files are stored before the answer is here.
        since = self._clock()
        result = await self._draw(job, log, leader.progress, steering=leader.steering)
        # An answer without the links that were asked for is no answer for later.
        if not any(image.not_stored for image in result.images):
            self._cache.put(key, result, num_bytes=size_of(key, result), since=since)
        return result

    async def _kept(self, key: ExactRequest) -> GenerationResult | None:
        """An answer that is kept and whose links still lead to files."""
        kept = self._cache.get(key, self._clock())
        if kept is None:
            return None
        try:
            for image in kept.images:
                if image.file_id is not None:
                    await asyncio.to_thread(self._read, image.file_id)
        except (FileNotStored, StageFailed):
            self._cache.drop(key)
            return None
        return kept


def _again(kept: GenerationResult) -> GenerationResult:
    """A kept answer as that of another request, for which nothing was done."""
    usage = replace(kept.usage, device_seconds=0.0, megapixel_steps=0.0)
    return replace(kept, usage=usage, timings={}, cold_stages=())


def may_join(terms: ServiceTerms, leader: ServiceTerms) -> bool:
    """Whether a request that shares the leader's drawing is served as well as by itself.

    Not one that is more urgent: it would wait in the leader's place.
    """
    return (
        _deadline(terms) >= _deadline(leader)
        and terms.priority <= leader.priority
        and (leader.refuses_late or not terms.refuses_late)
    )


def size_of(key: ExactRequest, result: GenerationResult) -> int:
    """Bytes that a kept answer takes, about."""
    texts = (key.params.prompt, key.params.negative_prompt or "", key.finish.model)
    images = sum(sys.getsizeof(image.b64 or "") for image in result.images)
    return _ENTRY_BYTES + images + sum(map(sys.getsizeof, texts))


def _deadline(terms: ServiceTerms) -> float:
    return math.inf if terms.deadline is None else terms.deadline
