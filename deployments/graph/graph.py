"""The graph: one job through the stages, from prompt to files.

    encode (prompt, negative prompt, pictures) ── denoise ── decode ── classify ── finish
                 once per request                └───────── once per image ─────────┘

Runs in the ingress, so it imports no torch, and neither conditionings nor pixels pass through it:
what one stage returns is handed to the next by reference. Latents do, as numpy: at most half a MiB
in an image's checkpoints and last as its result, so that an image outlives the replicas that work
on it. Knows retries, cancellation and errors; knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ray.serve.handle import DeploymentHandle

from deployments.graph.attempt_span import attempt_span
from deployments.graph.attempts import DenoiseAttempts, accepted, retried
from deployments.graph.calls import Calls, all_or_none, is_ready
from deployments.graph.decode_latency import DecodeLatency
from deployments.graph.encodings import Encodings, start_encoding
from deployments.graph.forecast import COLD_START, Forecast, Forecasts, Needed
from deployments.graph.image import (
    Drawn,
    Image,
    drawn_before,
    finish_spec,
    pixel_count,
    refuse_if_flagged,
    result_of,
    tell_drawn,
)
from deployments.graph.listening.events import Phase
from deployments.graph.listening.listener import Listener, unheard
from deployments.graph.pictures import Pictures, PictureStages, in_object_store
from deployments.graph.request_log import RequestLog
from deployments.graph.steering.relay import relayed
from deployments.graph.steering.steering import Steering
from deployments.graph.untouched import returned_input
from deployments.graph.waking import ColdPools
from deployments.lifecycle.callers import own_name
from deployments.names import StageName
from deployments.routing.balance import Balance
from deployments.routing.pools import pool_of
from deployments.stage_table import STAGES, StageRow
from deployments.wire.packed import HandOver, PackedCheckpoint, PackedLatents
from deployments.wire.parts import NOTHING_DONE, Part
from pipelines.contracts import (
    FinishedImage,
    GenerationJob,
    GenerationParams,
    GenerationResult,
    LatentJob,
    StepEvent,
)
from pipelines.errors import DeadlineUnreachable
from pipelines.previews.preview import Preview
from pipelines.tracing.open_spans import OpenSpan
from pipelines.tracing.spans import TRANSFER, Timings

READY_TIMEOUT_S = 3.0

STEP_EVERY_S = 0.5
"""Of a denoiser's steps in between its checkpoints: on a GPU an image takes many a second."""


class Graph:
    """Runs jobs. Holds no state of any job between calls, so one instance serves all requests.

    `handles` are those of the stages of `table`, by their keys; the image encoder's may be missing,
    where no pictures come. `shares` gives what calls are passed for a picture's bytes. Without
    `classifies`, the image classifier, which is then off, is not asked. `scales_to_zero` has the
    stages that may be without a replica, with the seconds that their start is configured to take.
    """

    def __init__(
        self,
        handles: Mapping[str, DeploymentHandle],
        *,
        classifies: bool = True,
        scales_to_zero: Mapping[str, float] | None = None,
        table: Sequence[StageRow] = STAGES,
        shares: Callable[[bytes], Any] = in_object_store,
    ) -> None:
        self._classifies = classifies
        table = [row for row in table if row.key in handles or not row.needs_pictures]
        self._table = table
        # By reference even where handles default to values: a prompt's tensor exceeds that limit.
        stages = {row.name: handles[row.key].options(_by_reference=True) for row in table}
        self._ready = {name: stage.options(method_name="ready") for name, stage in stages.items()}
        self._encode = stages[StageName.TEXT_ENCODER].options(method_name="encode")
        self._denoise = stages[StageName.DENOISER].options(method_name="denoise", stream=True)
        self._decode = stages[StageName.VAE_DECODER].options(method_name="decode")
        self._classify = stages[StageName.SAFETY].options(method_name="classify")
        self._finish = stages[StageName.FINISHER].options(method_name="finish")
        self._pictures = PictureStages(
            stages.get(StageName.IMAGE_ENCODER),
            self._classify if classifies else None,
            shares=shares,
        )
        self._caller = own_name()
        self._decode_latency = DecodeLatency()
        needed = {
            stage: seconds
            for stage, seconds in (scales_to_zero or {}).items()
            if classifies or stage != StageName.SAFETY
        }
        self._cold_pools = ColdPools(self._ready, needed)
        # A question for readiness would wake it, for requests that may never come.
        self._rests = {row.name for row in table if row.needs_pictures and row.name in needed}
        denoiser = handles[StageName.DENOISER.key]
        backlogs = pool_of(denoiser.app_name, denoiser.deployment_name).backlogs
        self._forecasts = Forecasts(self._cold_pools, backlogs, needed=self._needed, spreads=True)
        self._balance = Balance(backlogs, denoiser)
        self._denoiser = denoiser

    async def generate(
        self,
        job: GenerationJob,
        log: OpenSpan | None = None,
        listener: Listener = unheard,
        *,
        resume: Mapping[int, Part] = NOTHING_DONE,
        steering: Steering | None = None,
    ) -> GenerationResult:
        """All images of a request, or the first error, after which none of its work goes on.

        Raises ContentPolicyViolation (with `image_index`, or `picture` for one that came with the
        request), DegenerateImage, InvalidRequest (UnsupportedFeature among it), NotReady,
        Overloaded (DeadlineUnreachable among them), StageFailed. A replica that dies or goes away
        costs time, not the request: see `deployments.graph.attempts`. Stages that sleep are all
        woken at once, be the request refused for it or not. What is done is added to `log`, and
        `listener` is told how far each image is.

        Images in `resume` go on from there, and of those that are drawn already no stage is asked
        anything; such a request was accepted before, and is not refused for its deadline any more.
        Raises ValueError for a part of an image that the request does not have.
        """
        log = OpenSpan("generate") if log is None else log
        began = time.perf_counter()
        if resume:
            job = replace(job, terms=accepted(job.terms))
        drawn = drawn_before(job, resume)
        tell_drawn(job, drawn, listener)
        if was_asked := len(drawn) < job.params.num_images:
            self._cold_pools.wake(began, self._needed(job.params).all)
            self._forecasts.refuse_late(job)
            drawn |= await self._draw_others(job, drawn.keys(), log, listener, resume, steering)
        result = result_of(job.params, drawn, time.perf_counter() - began)
        if was_asked:
            self._forecasts.observe(job.params, result.timings)
        return result

    async def _draw_others(
        self,
        job: GenerationJob,
        drawn: Collection[int],
        log: OpenSpan,
        listener: Listener,
        resume: Mapping[int, Part],
        steering: Steering | None,
    ) -> dict[int, Drawn]:
        """The images of a request that are not drawn yet, by their index."""
        # Not the request's id, which a client may choose, and twice.
        group = uuid.uuid4().hex
        images = [
            Image.of(job, index, group, listener, steering, resume.get(index))
            for index in range(job.params.num_images)
            if index not in drawn
        ]
        pictures, began = Pictures(self._pictures, job), time.perf_counter()
        with (
            Calls(RequestLog.of(job)) as calls,
            self._balance.kept(),
            relayed(steering, self._denoiser, group),
        ):
            shared = Encodings(
                start_encoding(calls, self._encode, job), pictures.start_encoding(calls)
            )
            if await pictures.leave_nothing_to_draw(log):
                drawing = [returned_input(image, pictures, self._finish, log) for image in images]
            else:
                drawing = [self._draw(image, shared, pictures, began, log) for image in images]
            _, *others = await all_or_none(pictures.check(log), *drawing)
        return {image.index: other for image, other in zip(images, others, strict=True)}

    def forecast(self, params: GenerationParams) -> Forecast:
        """When such a request would be answered. Nothing is run, and nobody woken."""
        return self._forecasts.forecast(params)

    async def ready(self) -> Mapping[str, bool]:
        """By deployment name: whether the stage answers within `READY_TIMEOUT_S`. An image encoder
        that may sleep is not asked."""
        asked = [name for name in self._ready if name not in self._rests]
        answers = await asyncio.gather(
            *(is_ready(name, self._ready[name], timeout_s=READY_TIMEOUT_S) for name in asked)
        )
        return dict(zip(asked, answers, strict=True))

    def _needed(self, params: GenerationParams) -> Needed:
        """The stages that such a request needs."""
        rows = [row for row in self._table if params.pictures or not row.needs_pictures]
        return Needed(
            before_latents=[row.name for row in rows if row.place != "after_latents"],
            all=[row.name for row in rows],
        )

    async def _draw(
        self, image: Image, shared: Encodings, pictures: Pictures, began: float, log: OpenSpan
    ) -> Drawn:
        """One image of the request that `began` then, from noise to file."""
        image.progress.enters(Phase.ENCODE)
        about = RequestLog.of(image.job)
        with log.part("image", gaps=TRANSFER, image=image.index) as part:
            attempts = DenoiseAttempts(about, part, image.start)
            latents = await attempts.run(
                lambda: self._denoise_on(image, shared, pictures, attempts, part)
            )
            await pictures.passed()
            image.progress.denoised(latents.steps_run)
            denoised = time.perf_counter()
            file = await retried(
                about, part, lambda _: self._finish_image(image, latents, pictures, part)
            )
        finished = time.perf_counter()
        needed = self._needed(image.job.params)
        early = self._cold_pools.waited_s(needed.before_latents, began)
        late = self._cold_pools.waited_s(needed.after_latents, denoised)
        late_s = max(late.values(), default=0.0)
        self._decode_latency.observe(
            pixel_count(image.job.params), finished - denoised - late_s, now=finished
        )
        if early or late:
            cold_s = max(early.values(), default=0.0) + late_s
            file = replace(file, timings={**file.timings, COLD_START: cold_s})
        image.progress.drawn(file, latents.prompts)
        resumed_at, cold_stages = tuple(attempts.resumed_at), tuple(map(str, (*early, *late)))
        return Drawn(file, latents.prompts, finished - began, resumed_at, cold_stages)

    async def _denoise_on(
        self,
        image: Image,
        shared: Encodings,
        pictures: Pictures,
        attempts: DenoiseAttempts,
        part: OpenSpan,
    ) -> PackedLatents | HandOver:
        """One replica's part in an image: all of its steps, or those until the replica goes."""
        job = image.job
        with attempt_span(part, attempts, job.trace) as attempt, Calls(RequestLog.of(job)) as calls:
            # The encodings may have died with their replica; the encoders' caches are cheap.
            if attempts.count > 0:
                encoded = pictures.start_encoding(calls) if attempts.lost else shared.pictures
                shared = Encodings(start_encoding(calls, self._encode, job), encoded)
            stream = calls.start(
                StageName.DENOISER,
                self._denoise,
                self._latent_job(image, was_accepted=attempts.was_accepted),
                *shared.arguments,
                start=attempts.checkpoint,
                caller=self._caller,
                controls=image.controls,
                previews=image.progress.wants_previews,
                step_every_s=STEP_EVERY_S if image.progress.wants_steps else None,
            )
            while True:
                try:
                    item = await calls.next_item(StageName.DENOISER, stream)
                except DeadlineUnreachable as refused:
                    raise self._with_decoding(refused, job.params) from None
                if isinstance(item, PackedCheckpoint):
                    attempts.checkpoint = replace(item, spans=())
                    attempt.so_far(item.spans)
                    image.progress.checkpointed(item)
                    continue
                if isinstance(item, StepEvent):
                    image.progress.stepped(item.step, item.num_steps)
                    continue
                if isinstance(item, Preview):
                    image.progress.previewed(item)
                    continue
                attempt.ends_with(item)
                return item

    def _latent_job(self, image: Image, *, was_accepted: bool) -> LatentJob:
        """The image's job, as one more work; one that was accepted keeps what it was promised."""
        job, index, group = image.job, image.index, image.group
        terms = job.terms
        if terms.deadline is not None:
            terms = replace(terms, deadline=terms.deadline - self._decode_s(job.params))
        if was_accepted:
            terms = accepted(terms)
        work_id = f"{job.request_id}/{index}/{uuid.uuid4().hex}"
        return LatentJob.of(
            job.params, index, group=group, work_id=work_id, terms=terms, trace=job.trace
        )

    def _with_decoding(
        self, refused: DeadlineUnreachable, params: GenerationParams
    ) -> DeadlineUnreachable:
        """The denoiser knows when latents can be there; the client asked for files."""
        return DeadlineUnreachable(
            refused.message,
            earliest_s=refused.earliest_s + self._decode_s(params),
            retry_after_s=refused.retry_after_s,
        )

    def _decode_s(self, params: GenerationParams) -> float:
        """Seconds that an image is expected to take from its latents to its file."""
        return self._decode_latency.seconds(pixel_count(params), now=time.perf_counter())

    async def _finish_image(
        self, image: Image, latents: PackedLatents, pictures: Pictures, part: OpenSpan
    ) -> FinishedImage:
        job, index, progress = image.job, image.index, image.progress
        with (
            part.part("finish", gaps=TRANSFER, attempt_in=job.trace) as log,
            Calls(RequestLog.of(job)) as calls,
        ):
            pixels = calls.start(StageName.VAE_DECODER, self._decode, latents, job.terms)
            timings: Timings = {}
            if self._classifies:
                verdict = await calls.result(StageName.SAFETY, self._classify, pixels, job.terms)
                log.add(verdict.spans)
                refuse_if_flagged(verdict, index)
                timings = verdict.timings
            progress.enters(Phase.FINISH)
            spec = finish_spec(job, index, steps_run=latents.steps_run, cuts=latents.cuts)
            pasted = pictures.pasted(calls)
            file = await calls.result(StageName.FINISHER, self._finish, pixels, spec, *pasted)
            log.add(file.spans)
        timings = {**file.timings, **timings}
        return replace(
            file,
            steps_run=latents.steps_run,
            device_seconds=latents.device_seconds,
            timings=timings,
            spans=(),
        )
