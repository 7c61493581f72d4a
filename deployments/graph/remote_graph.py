"""The graph of fused stages, seen from the ingress. Imports no torch."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ray.serve.handle import DeploymentHandle

from deployments.graph.attempts import accepted, retried
from deployments.graph.calls import Calls, is_ready
from deployments.graph.forecast import COLD_START, Forecast, Forecasts, Needed
from deployments.graph.graph import READY_TIMEOUT_S
from deployments.graph.image import drawn_before, result_of, tell_drawn
from deployments.graph.listening.listener import Listener, Wants, tell, unheard
from deployments.graph.request_log import RequestLog
from deployments.graph.steering.relay import relayed
from deployments.graph.steering.steering import NO_CONTROLS, Steering
from deployments.graph.waking import ColdPools
from deployments.lifecycle.callers import own_name
from deployments.names import StageName
from deployments.routing.pools import pool_of
from deployments.wire.parts import NOTHING_DONE, ImageCheckpoint, ImageDrawn, Part
from pipelines.contracts import GenerationJob, GenerationParams, GenerationResult
from pipelines.tracing.open_spans import OpenSpan
from pipelines.tracing.spans import TRANSFER


class RemoteGraph:
    """Runs jobs on the replicas of `Fused`. `scales_to_zero` is as in `Graph`."""

    def __init__(
        self,
        handle: DeploymentHandle[Any],
        *,
        scales_to_zero: Mapping[str, float] | None = None,
    ) -> None:
        # By reference even where handles default to values: the files may exceed that limit.
        self._generate = handle.options(method_name="generate", stream=True, _by_reference=True)
        self._ready = handle.options(method_name="ready")
        self._handle = handle
        self._caller = own_name()
        self._cold_pools = ColdPools({StageName.FUSED: self._ready}, scales_to_zero or {})
        backlogs = pool_of(handle.app_name, handle.deployment_name).backlogs
        needed = Needed((StageName.FUSED,), (StageName.FUSED,))
        self._forecasts = Forecasts(
            self._cold_pools, backlogs, needed=lambda params: needed, spreads=False
        )

    async def generate(
        self,
        job: GenerationJob,
        log: OpenSpan | None = None,
        listener: Listener = unheard,
        *,
        resume: Mapping[int, Part] = NOTHING_DONE,
        steering: Steering | None = None,
    ) -> GenerationResult:
        """As `Graph.generate`; when a replica dies, its requests begin anew on another, or go on
        from their last checkpoints where `listener` wanted those."""
        log = OpenSpan("generate") if log is None else log
        began, about = time.perf_counter(), RequestLog.of(job)
        parts = dict(resume)
        if len(drawn := drawn_before(job, parts)) == job.params.num_images:
            tell_drawn(job, drawn, listener)
            return result_of(job.params, drawn, time.perf_counter() - began)
        self._cold_pools.wake(began)
        if not parts:
            self._forecasts.refuse_late(job)

        # Not the request's id, which a client may choose, and twice.
        name = "" if steering is None else uuid.uuid4().hex

        async def attempt(number: int) -> GenerationResult:
            terms = job.terms if number == 0 else accepted(job.terms)
            with (
                log.part("fused", gaps=TRANSFER, attempt_in=job.trace, attempt=number + 1) as part,
                Calls(about) as calls,
                relayed(steering, self._handle, name),
            ):
                stream = calls.start(
                    StageName.FUSED,
                    self._generate,
                    replace(job, terms=terms),
                    caller=self._caller,
                    wants=Wants.of(listener),
                    resume=parts,
                    name=name,
                    controls=NO_CONTROLS if steering is None else steering.controls,
                )
                while not isinstance(
                    item := await calls.next_item(StageName.FUSED, stream), GenerationResult
                ):
                    if isinstance(item, ImageCheckpoint | ImageDrawn):
                        parts[item.image] = item
                    tell(listener, item)
                part.add(item.spans)
                return replace(item, spans=())

        result = await retried(about, log, attempt)
        if waited := self._cold_pools.waited_s((StageName.FUSED,), began):
            timings = {**result.timings, COLD_START: max(waited.values())}
            timings["total"] = time.perf_counter() - began
            result = replace(result, timings=timings, cold_stages=tuple(map(str, waited)))
        self._forecasts.observe(job.params, result.timings)
        return result

    def forecast(self, params: GenerationParams) -> Forecast:
        """As `Graph.forecast`."""
        return self._forecasts.forecast(params)

    async def ready(self) -> Mapping[str, bool]:
        """Whether a replica answers within `READY_TIMEOUT_S`."""
        answer = await is_ready(StageName.FUSED, self._ready, timeout_s=READY_TIMEOUT_S)
        return {str(StageName.FUSED): answer}
