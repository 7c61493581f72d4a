"""Denoiser: the engine in a thread of its own, and a coroutine per image that streams its life.

A replica's event loop never computes: a call hands its job to the engine, and yields what the
engine reports. A call that is cancelled takes its work out of the engine, which notices at the next
tick; a replica that is told to go hands its works back to their callers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

import ray.serve

from deployments.graph.steering.steering import NO_CONTROLS, Controls
from deployments.lifecycle.boundary import end_process
from deployments.lifecycle.callers import CallerWatch
from deployments.lifecycle.draining import DrainWatch, is_deleted
from deployments.names import StageName
from deployments.options.stages import DenoiserOptions, WeightsOptions
from deployments.profiling import TickProfile
from deployments.replica_load import ReplicaLoad
from deployments.routing.backlog import Report
from deployments.stages.controlnets import FetchedControlNets
from deployments.stages.engine_builder import build_engine, tokens_of
from deployments.stages.engine_metrics import EngineMetrics
from deployments.stages.given import encoded_by, picture_timings, prompt_facts
from deployments.stages.preview_builder import build_previewer
from deployments.stages.provenance import transformer_provenance
from deployments.stages.reports import Reports, result_of
from deployments.stages.shim import Shim
from deployments.weights.fetch import fetch
from deployments.weights.fingerprint import Fingerprint
from deployments.wire.packed import (
    Denoising,
    HandOver,
    PackedCheckpoint,
    PackedConditioning,
    PackedLatents,
    PackedPicture,
)
from deployments.wire.tensors import (
    pack_checkpoint,
    pack_latents,
    unpack_checkpoint,
    unpack_conditioning,
    unpack_picture,
)
from pipelines.batching.demand import Demand
from pipelines.catalog import ModelSpec
from pipelines.contracts import Checkpoint, LatentJob, StepEvent
from pipelines.engine.entry import HandedOver
from pipelines.engine.observe.profiling import ProfileRequest
from pipelines.engine.observe.stats import EngineStats
from pipelines.families import family_of
from pipelines.previews.preview import Preview
from pipelines.provenance import Provenance, joined
from pipelines.task_rules import check_task
from pipelines.tasks import Task
from pipelines.tracing.spans import tagged

logger = logging.getLogger("ray.serve")

Traced = TypeVar("Traced", PackedCheckpoint, PackedLatents)


class Denoiser(Shim[DenoiserOptions]):
    """Ray Serve deployment over `Engine` and `DenoiserStage`."""

    def __init__(
        self,
        spec: ModelSpec,
        options: DenoiserOptions,
        weights: WeightsOptions = WeightsOptions(),
        *,
        hands_over: bool = True,
    ) -> None:
        """Without `hands_over`, the callers are in this process: no image can go on elsewhere, and
        a replica whose engine has ended takes the process with it.
        """
        super().__init__(StageName.DENOISER, options)
        self._policy = options.policy
        with self._starting():
            import torch

            torch.set_num_threads(options.resolved_threads)
            parts = family_of(spec).transformer_files
            folder = fetch(spec.source, parts, weights)
            self._stage = self._load(str(folder), spec.family, options, weights)
            if options.ranks > 1:
                self._opened.callback(self._stage.close)
            self._metrics = EngineMetrics(options, tokens_of(spec))
            previewer = build_previewer(self._stage, spec, options, weights)
            if previewer is not None:
                self._opened.callback(previewer.close)
            self._engine = build_engine(
                self._stage, spec, options, on_tick=self._metrics.ticked, previewer=previewer
            )
            self._opened.callback(self._engine.stop)
            if options.ranks > 1:
                from deployments.stages.ranks import end_when_lost

                end_when_lost(self._stage, self._engine.hand_over, self._works)
            self._text_tokens = family_of(spec).text_tokens(spec)
            # After the ticks were measured, which it would slow down.
            self._tells_provenance(
                transformer_provenance(options, Fingerprint(folder, parts, weights))
            )
            self._engine.start()
        self._callers = CallerWatch()
        self._hands_over = hands_over
        if hands_over:
            drain_watch = DrainWatch(self._go)
            self._opened.callback(drain_watch.stop)
            drain_watch.start()

    @property
    def demand(self) -> Demand:
        return self._engine.stats().demand

    async def denoise(
        self,
        job: LatentJob,
        positive: PackedConditioning,
        negative: PackedConditioning | None = None,
        *pictures: PackedPicture,
        start: PackedCheckpoint | None = None,
        caller: str = "",
        step_every_s: float | None = None,
        controls: Controls = NO_CONTROLS,
        previews: bool = False,
    ) -> AsyncIterator[Denoising]:
        """The image's checkpoints, and last its latents, or `HandOver` if the replica goes away.

        `pictures` are those of the job's sampling, in order. With `step_every_s` its latest step
        too, if as many seconds have passed since the last one. With `start`, a checkpoint of
        another call with the same job, conditionings and pictures, it goes on from there. What
        `steer` would ask of its request is in `controls`; unless that says something of `previews`,
        they are yielded if those are asked for. The latents' `timings` are the encoder's and this
        engine's. A call that is cancelled or closed takes its work out of the engine at the next
        tick, and so does one whose `caller` (`deployments.lifecycle.callers`) dies.

        Ends with a `Refusal`: DeadlineUnreachable, DegenerateImage, InvalidRequest (of which
        UnsupportedFeature for a task that the model cannot do), Overloaded, StageFailed.
        """
        items = self._denoising(
            job,
            positive,
            negative,
            pictures,
            start,
            step_every_s,
            controls,
            shows=_shows(controls, previews),
        )
        async with aclosing(
            self._callers.streamed(caller, items, lambda: self._engine.cancel(job.work_id))
        ) as stream:
            async for item in stream:
                yield item

    async def _denoising(
        self,
        job: LatentJob,
        positive: PackedConditioning,
        negative: PackedConditioning | None,
        pictures: Sequence[PackedPicture],
        start: PackedCheckpoint | None,
        step_every_s: float | None,
        controls: Controls,
        *,
        shows: bool,
    ) -> AsyncGenerator[Denoising]:
        with self._boundary.call():
            reports, future = Reports(step_every_s), None
            if job.sampling.task is not Task.TEXT_TO_IMAGE:
                # A work that has no step, for one, cannot be queued.
                check_task(job.sampling, (job.sampling.task,))
            try:
                # Left on the CPU: the engine's thread moves them, as this one waits for no GPU.
                future = self._engine.submit(
                    job,
                    unpack_conditioning(positive),
                    None if negative is None else unpack_conditioning(negative),
                    pictures=[unpack_picture(each) for each in pictures],
                    start=None if start is None else unpack_checkpoint(start, work_id=job.work_id),
                    on_step=None if step_every_s is None else reports.put_step,
                    on_checkpoint=reports.put,
                    on_preview=reports.put,
                    is_shown=shows,
                )
                try:
                    self._ask(job.group, controls)
                    future.add_done_callback(reports.put)
                    drawn_by = joined(
                        encoded_by(positive, negative, *pictures),
                        () if start is None else start.drawn_by,
                        await super().provenance(),
                        await self._controlnets.known_of(job.sampling),
                    )
                    while isinstance(
                        report := await reports.get(), Checkpoint | StepEvent | Preview
                    ):
                        if isinstance(report, StepEvent | Preview):
                            yield report
                        else:
                            checkpoint = self._signed(pack_checkpoint(report))
                            yield replace(checkpoint, drawn_by=drawn_by)
                    latents = self._signed(pack_latents(result_of(future)))
                    timings = {**picture_timings(pictures), **latents.timings}
                    self._boundary.took(wait=timings["denoise_wait"], run=timings["denoise"])
                    yield replace(
                        latents,
                        prompts=prompt_facts(positive, negative),
                        drawn_by=drawn_by,
                        timings=timings,
                    )
                finally:
                    self._engine.cancel(job.work_id)
            except HandedOver:
                if not self._hands_over:  # the engine's loop ended by itself
                    end_process("the denoiser's engine has ended")
                yield HandOver(was_accepted=future is not None)

    def _signed(self, item: Traced) -> Traced:
        """With this replica's name, and its policy, in the spans that are its own."""
        return replace(
            item,
            spans=tagged(
                item.spans, "denoise.", replica=self._boundary.replica, policy=self._policy
            ),
        )

    def record_routing_stats(self) -> dict[str, Any]:
        """What callers choose a replica by: a `Report`. Serve asks every second, so metrics are
        told here, too."""
        stats = self._engine.stats()
        self._metrics.publish(stats)
        self._boundary.has_to_do(stats.demand)
        return Report(time.time(), stats.queued_s, self._text_tokens, stats.cost).stats()

    async def stats(self) -> EngineStats:
        """Works, queued seconds, ticks and steps of this replica's engine."""
        return self._engine.stats()

    async def steer(self, group: str, controls: Controls) -> None:
        """Ask this of the works of a request, as far as they are here; may be said again."""
        self._ask(group, controls)

    def _ask(self, group: str, controls: Controls) -> None:
        if controls.keep:
            self._engine.keep(group)
        if controls.previews is not None:
            self._engine.show(group, controls.previews)

    async def rebalance(self, keep_s: float) -> int:
        """Hand back works that have not begun, as long as `keep_s` seconds are left to do here.

        Their calls yield `HandOver`, and come again wherever they will be finished first. Returns
        how many.
        """
        return self._engine.rebalance(keep_s)

    async def load(self) -> ReplicaLoad:
        """What this replica has to do, with its name."""
        stats, recent = self._engine.stats(), self._metrics.recent
        return ReplicaLoad(
            replica=self._boundary.replica,
            works=stats.works,
            queued_s=stats.queued_s,
            tick_tokens=recent.mean_tokens,
            tick_s=recent.mean_s,
            knee_tokens=self._metrics.knee_tokens(stats.cost),
            knee_s=stats.cost.knee,
        )

    async def profile(self, request: ProfileRequest, *, replica: str) -> TickProfile | None:
        """The next ticks, recorded; None if another `replica` than this is meant.

        Raises Overloaded while another profile is taken, RequestTimeout when no tick came in time,
        StageFailed.
        """
        if replica != self._boundary.replica:
            return None
        recording = await asyncio.wrap_future(self._engine.profiling.ask(request))
        return TickProfile(
            replica=replica,
            ticks=recording.ticks,
            ranks=self._options.ranks,
            trace=await asyncio.to_thread(recording.trace),
        )

    async def provenance(self) -> Provenance:
        """As every stage's, and that of its ControlNets."""
        return joined(await super().provenance(), await self._controlnets.known())

    def check_health(self) -> None:
        """Raises StageFailed when the engine or a rank has died, or denoising no longer works."""
        self._engine.check_health()
        if self._options.ranks > 1:
            self._stage.check_health()
        self._boundary.check_health()

    def _take_over(self, options: DenoiserOptions) -> None:
        self._policy = options.policy
        self._engine.configure(options.policy, options.max_works, options.checkpoint_every)

    def _load(
        self, source: str, family: str, options: DenoiserOptions, weights: WeightsOptions
    ) -> Any:
        """The stage, with its further ranks or its ControlNets if it has any."""
        self._controlnets = FetchedControlNets(options, weights)
        if options.ranks > 1:
            from deployments.stages.ranks import start_ranks

            return start_ranks(source, options)
        from pipelines.stages.denoiser import DenoiserStage

        return DenoiserStage.load(
            source,
            family=family,
            device=options.resolved_device,
            dtype=options.dtype,
            attention=options.attention,
            compile=options.compile,
            controlnets=self._controlnets.sources,
        )

    def _go(self) -> None:
        """Serve takes this replica away; without its application, whose other replicas go on."""
        if is_deleted(ray.serve.get_replica_context().app_name):
            logger.info("the application is deleted: the works are finished here")
        else:
            self._engine.hand_over()

    def _works(self) -> int:
        return self._engine.stats().works


def _shows(controls: Controls, previews: bool) -> bool:
    return previews if controls.previews is None else controls.previews
