"""The graph of fused stages, seen from the ingress. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ray.serve.handle import DeploymentHandle

from deployments.graph.attempts import accepted, retried
from deployments.graph.calls import Calls, is_ready
from deployments.graph.forecast import COLD_START, Forecast, Forecasts
from deployments.graph.graph import READY_TIMEOUT_S
from deployments.graph.progress import Listener, Progress, is_heard, unheard
from deployments.graph.request_log import RequestLog
from deployments.graph.waking import ColdPools
from deployments.lifecycle.callers import own_name
from deployments.names import StageName
from deployments.routing.pools import pool_of
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
        self._caller = own_name()
        self._cold_pools = ColdPools({StageName.FUSED: self._ready}, scales_to_zero or {})
        backlogs = pool_of(handle.app_name, handle.deployment_name).backlogs
        self._forecasts = Forecasts(
            self._cold_pools, backlogs, before_latents=(StageName.FUSED,), spreads=False
        )

    async def generate(
        self, job: GenerationJob, log: OpenSpan | None = None, listener: Listener = unheard
    ) -> GenerationResult:
        """As `Graph.generate`; when a replica dies, its requests begin anew on another."""
        log = OpenSpan("generate") if log is None else log
        began, about = time.perf_counter(), RequestLog.of(job)
        self._cold_pools.wake(began)
        self._forecasts.refuse_late(job)

        async def attempt(number: int) -> GenerationResult:
            terms = job.terms if number == 0 else accepted(job.terms)
            with (
                log.part("fused", gaps=TRANSFER, attempt_in=job.trace, attempt=number + 1) as part,
                Calls(about) as calls,
            ):
                stream = calls.start(
                    StageName.FUSED,
                    self._generate,
                    replace(job, terms=terms),
                    caller=self._caller,
                    tells=is_heard(listener),
                )
                while isinstance(item := await calls.next_item(StageName.FUSED, stream), Progress):
                    listener(item)
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
