"""DrainingGraph: what is under way when the application is deleted, or Serve ends, is finished.

Serve then takes all replicas away at once. Each finishes the calls that it has, but one that has
none is gone within a second, and an image that is being denoised still needs a decoder. So an
ingress replica that goes with its application holds a replica of each stage, by calls as long as it
has requests itself. Its routers go on to where the replicas were (`sticky.py`), and a
denoiser keeps its works, as there is no other to hand them to. The bound of all this is every
replica's `graceful_shutdown_timeout_s`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextvars import Context

import ray.serve
from ray.serve.handle import DeploymentHandle

from deployments.graph.calls import Calls
from deployments.graph.graph import Graph
from deployments.graph.listening.listener import Listener, unheard
from deployments.graph.request_log import RequestLog
from deployments.graph.steering.steering import Steering
from deployments.lifecycle.boundary import HOLD_S
from deployments.lifecycle.draining import is_deleted, replica_flag
from deployments.stage_table import STAGES, StageRow
from deployments.wire.parts import NOTHING_DONE, Part
from pipelines.contracts import GenerationJob, GenerationResult
from pipelines.tracing.open_spans import OpenSpan

_DRAINING = RequestLog(request_id="draining")
_LOOK_EVERY_S = 0.05
"""A replica without calls is gone within a second of the flag, on a slow machine too."""


class DrainingGraph(Graph):
    """A `Graph` in an ingress replica."""

    def __init__(
        self,
        handles: Mapping[str, DeploymentHandle],
        *,
        classifies: bool = True,
        scales_to_zero: Mapping[str, float] | None = None,
        table: Sequence[StageRow] = STAGES,
    ) -> None:
        super().__init__(handles, classifies=classifies, scales_to_zero=scales_to_zero, table=table)
        self._holds = {
            row.name: handles[row.key].options(method_name="hold") for row in self._table
        }
        self._in_flight = 0
        self._watch: asyncio.Task[None] | None = None

    async def generate(
        self,
        job: GenerationJob,
        log: OpenSpan | None = None,
        listener: Listener = unheard,
        *,
        resume: Mapping[int, Part] = NOTHING_DONE,
        steering: Steering | None = None,
    ) -> GenerationResult:
        """As `Graph.generate`."""
        self._in_flight += 1
        if self._watch is None:
            # Not in the request's context: Serve would take what is held for the request's own.
            self._watch = asyncio.create_task(self._hold_if_deleted(), context=Context())
        try:
            return await super().generate(job, log, listener, resume=resume, steering=steering)
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self._watch.cancel()
                self._watch = None

    async def _hold_if_deleted(self) -> None:
        """Until it is cancelled: wait for the end of the application, then hold its stages."""
        goes_away = replica_flag()
        if goes_away is None:
            return
        while not goes_away():  # noqa: ASYNC110  it is a flag of Serve's
            await asyncio.sleep(_LOOK_EVERY_S)
        app = ray.serve.get_replica_context().app_name
        with Calls(_DRAINING) as calls:
            # Held while the controller is asked, too: by when a busy one answers, they may be gone.
            asked = asyncio.create_task(asyncio.to_thread(is_deleted, app))
            while not asked.done() or asked.result():
                for stage, handle in self._holds.items():
                    calls.start(stage, handle)
                await asyncio.sleep(HOLD_S / 3)
