"""What stands in for the ingress: a deployment that runs the graph and knows no HTTP."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import ray.serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from deployments.application import bind_stages
from deployments.graph import Graph, StageHandles
from deployments.options import StagesConfig
from pipelines.catalog import ModelSpec
from pipelines.contracts import FinishSpec, GenerationJob, GenerationParams, GenerationResult
from pipelines.engine.engine import EngineStats


class GraphDriver:
    """Runs jobs through the graph, as the ingress does."""

    def __init__(self, **stages: DeploymentHandle) -> None:
        self._graph = Graph(StageHandles(**stages))
        self._denoiser = stages["denoiser"]

    async def generate(self, job: GenerationJob) -> GenerationResult:
        return await self._graph.generate(job)

    async def ready(self) -> Mapping[str, bool]:
        return await self._graph.ready()

    async def engine(self) -> EngineStats:
        """The denoiser's engine, of one of its replicas."""
        return await self._denoiser.stats.remote()

    async def loaded(self, module: str) -> bool:
        """Whether this process has imported `module`."""
        return module in sys.modules


def bind_driver(spec: ModelSpec, config: StagesConfig) -> Application:
    """An application of the stages of `spec`, and a driver."""
    stages = bind_stages(spec, config)
    decorate = ray.serve.deployment(
        name="GraphDriver", max_ongoing_requests=100, ray_actor_options={"num_cpus": 0.1}
    )
    return decorate(GraphDriver).bind(**stages)


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
        finish=FinishSpec(seed=seed, parameters=f"{prompt}\nSteps: {steps}, Seed: {seed}"),
    )
