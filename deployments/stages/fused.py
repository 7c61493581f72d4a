"""Fused: all stages in one replica, for one GPU, or where a hop between processes costs too much.

The same stages, graph and engine as split, called as methods instead of over handles: one call from
the ingress for each request. What is given up is what processes give: scaling and placing stages by
themselves, and moving images when a replica goes. One that is items to go finishes what it has; one
that dies loses its requests' steps, which begin anew elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import replace
from typing import Any, cast

from deployments.graph.graph import Graph
from deployments.graph.listening.events import GraphEvent
from deployments.graph.listening.listener import (
    NO_WANTS,
    CallbackListener,
    Listener,
    Wants,
    unheard,
)
from deployments.graph.steering.steering import NO_CONTROLS, Controls, Steering
from deployments.lifecycle.callers import CallerWatch
from deployments.options.reconfigure import check_sections
from deployments.options.stages import StagesConfig
from deployments.profiling import TickProfile
from deployments.replica_load import ReplicaLoad
from deployments.stages.local_handle import LocalHandle
from deployments.wire.packed import Refusal
from deployments.wire.parts import NOTHING_DONE, Part
from pipelines.catalog import ModelSpec
from pipelines.contracts import GenerationJob, GenerationResult
from pipelines.engine.observe.profiling import ProfileRequest
from pipelines.errors import ConfigurationError
from pipelines.provenance import Provenance, joined
from pipelines.tracing.open_spans import OpenSpan

logger = logging.getLogger("ray.serve")


class Fused:
    """Ray Serve deployment over all stages and their graph."""

    def __init__(self, spec: ModelSpec, config: StagesConfig) -> None:
        self._config = config
        # The denoiser last: the number of threads is the process's, and it shares out the memory
        # that the others' weights leave.
        self._stages: dict[str, Any] = {}
        for row in sorted(config.rows(spec), key=lambda row: row.place == "denoiser"):
            alone = {"hands_over": False} if row.place == "denoiser" else {}
            arguments = config.arguments(row, spec)
            self._stages[row.key] = row.shim_class()(**arguments, **alone)
        handles = {key: cast(Any, LocalHandle(stage)) for key, stage in self._stages.items()}
        self._graph = Graph(
            handles,
            classifies=config.safety.classifier != "off",
            table=config.rows(spec),
            shares=_as_it_is,
        )
        self._callers = CallerWatch()
        self._steerings: dict[str, Steering] = {}

    async def generate(
        self,
        job: GenerationJob,
        *,
        caller: str = "",
        wants: Wants = NO_WANTS,
        resume: Mapping[int, Part] = NOTHING_DONE,
        name: str = "",
        controls: Controls = NO_CONTROLS,
    ) -> AsyncIterator[GraphEvent | GenerationResult | Refusal]:
        """The images' result, and before it what a listener that `wants` so is told; goes on from
        `resume` as `Graph.generate`, whose errors come as a `Refusal`. Of what `steer` will call
        `name`, that is asked already which is in `controls`.

        Cancelled if its `caller` (`deployments.lifecycle.callers`) dies.
        """
        log, events = OpenSpan("generate"), asyncio.Queue[GraphEvent | None]()
        loop = asyncio.get_running_loop()
        listener: Listener = unheard
        if any(wants) or name:
            # Always a listener for previews: `steer` may ask for them on the way, and `controls`
            # say whether any are made.
            listener = CallbackListener(events.put_nowait, *wants._replace(previews=True))
        if controls.previews is None:
            controls = controls._replace(previews=wants.previews)
        steering = Steering(controls)
        if name:
            self._steerings[name] = steering
        task = loop.create_task(
            self._graph.generate(job, log, listener, resume=resume, steering=steering)
        )
        task.add_done_callback(lambda _: events.put_nowait(None))

        async def items() -> AsyncGenerator[GraphEvent | GenerationResult]:
            try:
                while (event := await events.get()) is not None:
                    yield event
                result = await task
            finally:
                self._steerings.pop(name, None)
                task.cancel()
                # Until the stages have noticed, the call is not over.
                await asyncio.gather(task, return_exceptions=True)
            yield replace(result, spans=log.span().children) if job.trace else result

        async with contextlib.aclosing(
            self._callers.streamed(caller, items(), lambda: _cancel_soon(loop, task))
        ) as stream:
            async for item in stream:
                yield item

    async def steer(self, name: str, controls: Controls) -> None:
        """Ask this of the request of that name, if it is here."""
        if (steering := self._steerings.get(name)) is not None:
            steering.ask(controls)

    def reconfigure(self, user_config: dict[str, Any] | None, rank: Any = None) -> None:
        """Take over Serve's `user_config`: of each stage what it has, by the stage's key."""
        try:
            check_sections(self._config, self._stages, user_config)
        except ConfigurationError as error:  # a mistake must not take down what runs
            logger.error("nothing was changed: %s", error.message)
            return
        for key, stage in self._stages.items():
            stage.reconfigure((user_config or {}).get(key))

    async def load(self) -> ReplicaLoad:
        """What this replica's denoiser has to do."""
        return await self._stages["denoiser"].load()

    async def profile(self, request: ProfileRequest, *, replica: str) -> TickProfile | None:
        """The next ticks of its denoiser; see `Denoiser.profile`."""
        return await self._stages["denoiser"].profile(request, replica=replica)

    async def provenance(self) -> Provenance:
        """What its stages put into receipts."""
        return joined(*[await stage.provenance() for stage in self._stages.values()])

    async def ready(self) -> bool:
        """True: the constructor returns only once all stages are loaded."""
        return True

    def record_routing_stats(self) -> dict[str, Any]:
        """What callers choose a replica by: the denoiser's `Report`."""
        return self._stages["denoiser"].record_routing_stats()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve's controller is items for scaling: the `Demand` of all stages."""
        demands = [stage.record_autoscaling_stats() for stage in self._stages.values()]
        total = {key: sum(demand[key] for demand in demands) for key in ("queued_s", "busy_s")}
        return {**self._stages["denoiser"].record_autoscaling_stats(), **total}

    def check_health(self) -> None:
        """Raises StageFailed when one of the stages has stopped working."""
        for stage in self._stages.values():
            stage.check_health()

    def close(self) -> None:
        """End all stages; a second time does nothing."""
        for stage in getattr(self, "_stages", {}).values():
            stage.close()

    def __del__(self) -> None:
        self.close()  # Serve calls it, and Python where the constructor failed


def _as_it_is(data: bytes) -> bytes:
    """What calls in this process are passed for a picture's bytes."""
    return data


def _cancel_soon(loop: asyncio.AbstractEventLoop, task: asyncio.Task[object]) -> None:
    """From another thread; the loop of a replica that ends may be closed already."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(task.cancel)
