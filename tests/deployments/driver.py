"""What stands in for the ingress: a deployment that runs the graph and knows no HTTP."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import ray
import ray.serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from deployments.application import bind_stages
from deployments.graph.forecast import Forecast
from deployments.graph.graph import Graph
from deployments.graph.listening.events import GraphEvent, Progress
from deployments.graph.listening.listener import CallbackListener
from deployments.graph.steering.steering import Steering
from deployments.names import StageName
from deployments.options.stages import DenoiserOptions, StagesConfig
from deployments.stages.denoiser import Denoiser
from deployments.wire.packed import HandOver, PackedCheckpoint, PackedLatents
from pipelines.catalog import ModelSpec
from pipelines.contracts import (
    FinishSpec,
    GenerationJob,
    GenerationParams,
    GenerationResult,
    LatentJob,
)
from pipelines.engine.observe.stats import EngineStats
from pipelines.tracing.open_spans import OpenSpan
from tests.listeners import Heard


@dataclass(slots=True)
class Attempt:
    """One call to denoise: the step it started from, that of its last checkpoint, its end."""

    request_id: str
    start: int
    reached: int
    actor_id: str = ""
    """Of the replica, in hexadecimal digits; "" until one has taken the call, and without Ray."""
    was_handed_over: bool = False
    was_answered: bool = False
    """All steps are done, and the latents are here."""

    @property
    def was_refused(self) -> bool:
        """Handed over before it had begun, as by a replica that was asked when it drained."""
        return self.was_handed_over and self.reached == self.start


class WatchedHandle:
    """The denoiser's handle, which notes in `attempts` what passes through it."""

    def __init__(self, handle: DeploymentHandle, attempts: list[Attempt]) -> None:
        self._handle = handle
        self._attempts = attempts

    def options(self, **options: Any) -> WatchedHandle:
        return WatchedHandle(self._handle.options(**options), self._attempts)

    def remote(self, *args: Any, start: PackedCheckpoint | None = None, **kwargs: Any) -> Any:
        if not args or not isinstance(args[0], LatentJob):
            return self._handle.remote(*args, **kwargs)
        step = 0 if start is None else start.step
        attempt = Attempt(args[0].work_id.rsplit("/", 2)[0], step, step)
        self._attempts.append(attempt)
        return _WatchedStream(self._handle.remote(*args, start=start, **kwargs), attempt)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)


class _WatchedStream:
    def __init__(self, stream: Any, attempt: Attempt) -> None:
        self._stream = stream
        self._attempt = attempt

    async def __anext__(self) -> Any:
        if not self._attempt.actor_id and ray.is_initialized():
            call = await self._stream._to_object_ref_gen()
            self._attempt.actor_id = call._generator_ref.task_id().actor_id().hex()
        item = await anext(self._stream)
        if isinstance(item, PackedCheckpoint):
            self._attempt.reached = item.step
        self._attempt.was_handed_over = isinstance(item, HandOver)
        self._attempt.was_answered = isinstance(item, PackedLatents)
        return item

    def cancel(self) -> None:
        self._stream.cancel()


@dataclass(slots=True)
class StageCalls:
    """What was asked of a stage: how often, and the answers that somebody waits for."""

    made: int = 0
    responses: weakref.WeakSet[DeploymentResponse[Any]] = field(default_factory=weakref.WeakSet)

    async def taken(self) -> int:
        """Calls that a replica has accepted and not answered: they surely die with it."""
        accepted = [each for each in self.responses if _is_accepted(each)]
        references = [await each._to_object_ref() for each in accepted]
        if not references:
            return 0
        # Answers are not fetched: they hold tensors, which a driver does not read.
        _, pending = ray.wait(references, num_returns=len(references), timeout=0, fetch_local=False)
        return len(pending)


def _is_accepted(response: DeploymentResponse[Any]) -> bool:
    """Whether a replica has taken the call in, be it answered or not."""
    assigned = response._replica_result_future
    return assigned.done() and not assigned.cancelled() and assigned.exception() is None


class CountedHandle:
    """A stage's handle, which notes in `calls` what it is asked to do."""

    def __init__(self, handle: DeploymentHandle, calls: StageCalls) -> None:
        self._handle = handle
        self._calls = calls

    def options(self, **options: Any) -> CountedHandle:
        return CountedHandle(self._handle.options(**options), self._calls)

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        response = self._handle.remote(*args, **kwargs)
        if args:  # who only asks whether the stage is ready has none
            self._calls.made += 1
            self._calls.responses.add(cast(Any, response))
        return response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)


class GraphDriver:
    """Runs jobs through the graph, as the ingress does."""

    def __init__(self, scales_to_zero: Mapping[str, float], **stages: DeploymentHandle) -> None:
        self._denoiser = stages["denoiser"]
        self._attempts: list[Attempt] = []
        self._calls = {key: StageCalls() for key in stages if key != "denoiser"}
        handles: dict[str, Any] = {
            "denoiser": WatchedHandle(self._denoiser, self._attempts),
            **{key: CountedHandle(stages[key], calls) for key, calls in self._calls.items()},
        }
        self._graph = Graph(handles, scales_to_zero=scales_to_zero)

    async def generate(self, job: GenerationJob) -> GenerationResult:
        return await self._graph.generate(job)

    async def heard(self, job: GenerationJob) -> list[Progress]:
        """What a listener hears of a job's progress."""
        told = Heard()
        await self._graph.generate(job, OpenSpan("driver"), told)
        return told.progress

    async def kept(self, job: GenerationJob) -> GenerationResult:
        """A job whose images are good enough as soon as one of them has done a step."""
        steering = Steering()

        def told(event: GraphEvent) -> None:
            if isinstance(event, Progress) and event.step:
                steering.keep()

        listener = CallbackListener(told)
        return await self._graph.generate(job, OpenSpan("driver"), listener, steering=steering)

    async def forecast(self, job: GenerationJob) -> Forecast:
        return self._graph.forecast(job.params)

    async def ready(self) -> Mapping[str, bool]:
        return await self._graph.ready()

    async def engine(self) -> EngineStats:
        """The denoiser's engine, of one of its replicas."""
        return await self._denoiser.stats.remote()

    async def attempts(self, request_id: str) -> list[Attempt]:
        """The calls to denoise that were made for a request, in order."""
        return [attempt for attempt in self._attempts if attempt.request_id == request_id]

    async def calls_made(self, stage: StageName) -> int:
        """How often a stage other than the denoiser was asked to do something."""
        return self._calls[stage.key].made

    async def calls_taken(self, stage: StageName) -> int:
        """Calls that a replica of such a stage has accepted and not answered."""
        return await self._calls[stage.key].taken()

    async def pid(self) -> int:
        """Of this process."""
        return os.getpid()

    async def loaded(self, module: str) -> bool:
        """Whether this process has imported `module`."""
        return module in sys.modules


def bind_driver(
    spec: ModelSpec, config: StagesConfig, handles: Mapping[str, DeploymentHandle] | None = None
) -> Application:
    """An application of the stages of `spec`, and a driver; those in `handles` are others'."""
    stages: dict[str, Any] = {**bind_stages(spec, config), **(handles or {})}
    decorate = ray.serve.deployment(
        name="GraphDriver",
        max_ongoing_requests=100,
        health_check_period_s=1,
        ray_actor_options={"num_cpus": 0.1},
    )
    return decorate(GraphDriver).bind(config.scales_to_zero(spec), **stages)


def bind_denoisers(spec: ModelSpec, options: DenoiserOptions) -> Application:
    """An application of denoisers alone, which can be redeployed under a driver."""
    decorate = ray.serve.deployment(name=StageName.DENOISER, **options.deployment_kwargs())
    return decorate(Denoiser).bind(spec, options)


def make_job(
    request_id: str = "req",
    *,
    prompt: str = "a red circle",
    negative_prompt: str | None = None,
    true_cfg_scale: float = 1.0,
    height: int = 64,
    width: int = 64,
    steps: int = 2,
    guidance_scale: float = 3.5,
    seed: int = 0,
    num_images: int = 1,
) -> GenerationJob:
    """A job for the tiny model, finished as inline PNG."""
    params = GenerationParams(
        prompt=prompt,
        negative_prompt=negative_prompt,
        height=height,
        width=width,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        true_cfg_scale=true_cfg_scale,
        seed=seed,
        num_images=num_images,
        max_sequence_length=16,
    )
    return GenerationJob(
        request_id=request_id,
        params=params,
        finish=FinishSpec(seed=seed, model="tiny"),
    )
