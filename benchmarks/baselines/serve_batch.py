"""The baseline: `diffusers.FluxPipeline` behind Ray Serve's `@serve.batch`, as well as that goes.

    serve run --address local benchmarks.baselines.serve_batch:build replicas=2

In the style of Ray's Stable Diffusion example, an ingress and a model deployment, with what an
expert would add: images (not requests) are batched, those of equal size, steps and guidance are
drawn by one call, equal prompts of a batch are encoded once, each image has a generator of its own
(so that it is Sluice's image), files are made outside of the model's thread, and nothing queues in
front of the replicas. It answers as Sluice does: JSON with a base64 PNG per image.

No `from __future__ import annotations` here: Ray Serve reads the builder's annotations.
"""

import asyncio
import base64
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np
import ray.serve
from fastapi import FastAPI, Response
from pydantic import BaseModel, Field
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from benchmarks.baselines.grouping import ImageTask, Shape, groups, prompts_of
from deployments.storage.encode import encode_image
from pipelines.catalog import ModelSpec, models

_UNBOUNDED = 100_000
"""Requests held at once: the replicas' batch queues are the only ones."""

_SLICED_FROM_PIXELS = 128 * 128
"""Images of one call are decoded one by one from this size on, where that is faster on a CPU."""


class BaselineOptions(BaseModel, extra="forbid", frozen=True):
    """What can be tuned; the defaults are `--tune`'s choice on two cores."""

    max_batch_size: int = Field(default=16, ge=1)
    """Images of one batch."""
    batch_wait_timeout_s: float = Field(default=0.02, ge=0)
    """How long a batch waits for more."""
    replicas: int = Field(default=2, ge=1)
    """Of the model."""
    threads: int = Field(default=1, ge=1)
    """Of torch, in each replica."""
    run: Literal["inline", "thread"] = "inline"
    """Where the pipeline runs. "inline", as in Ray's example: on the replica's event loop, so that
    what arrives meanwhile is one batch afterwards. "thread": the loop stays free, and cuts arrivals
    into batches by time while the last one runs."""


class ImageRequest(BaseModel, extra="forbid", frozen=True):
    """The part of Sluice's request that the benchmarks use; other fields are refused.

    Users and deadlines are understood, and change nothing: `@serve.batch` knows neither.
    """

    prompt: str
    n: int = Field(default=1, ge=1, le=10)
    size: str = Field(default="64x64", pattern=r"^\d+x\d+$")
    num_inference_steps: int = Field(default=10, ge=1, le=100)
    guidance_scale: float = 3.5
    seed: int = 0
    response_format: Literal["b64_json"] = "b64_json"
    user: str | None = None
    deadline_ms: int | None = None

    def tasks(self) -> list[ImageTask]:
        """One per image, seeded `seed + i`."""
        width, height = (int(side) for side in self.size.split("x"))
        shape = Shape(height, width, self.num_inference_steps, self.guidance_scale)
        return [
            ImageTask(prompt=self.prompt, seed=self.seed + i, shape=shape) for i in range(self.n)
        ]


class Drawn(NamedTuple):
    """An image, (height, width, 3) uint8, and its share of the encoding of its prompt."""

    pixels: np.ndarray
    encodes: float


class FinishedPng(NamedTuple):
    b64: str
    encodes: float


@ray.serve.deployment
class FluxModel:
    """One `FluxPipeline`."""

    def __init__(self, spec: ModelSpec, options: BaselineOptions) -> None:
        import torch
        from diffusers import FluxPipeline

        torch.set_num_threads(options.threads)
        self._torch = torch
        self._spec = spec
        self._pipeline: Any = FluxPipeline.from_pretrained(spec.source)
        self._pipeline.set_progress_bar_config(disable=True)
        # Convolutions run faster on a CPU with channels innermost, in Sluice as well.
        self._pipeline.vae.to(memory_format=torch.channels_last)
        self._worker = ThreadPoolExecutor(1) if options.run == "thread" else None
        queue: Any = self._draw_batch
        queue.set_max_batch_size(options.max_batch_size)
        queue.set_batch_wait_timeout_s(options.batch_wait_timeout_s)

    async def draw(self, task: ImageTask) -> FinishedPng:
        """The image as base64 of a PNG."""
        drawn = await self._draw_batch(task)
        return await asyncio.to_thread(_to_png, drawn, task)

    @ray.serve.batch
    async def _draw_batch(self, tasks: list[ImageTask]) -> list[Drawn]:
        if self._worker is None:
            return self._draw(tasks)
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._draw, tasks)

    def _draw(self, tasks: list[ImageTask]) -> list[Drawn]:
        """All images of a batch, those of one shape in one call."""
        drawn: dict[int, Drawn] = {}
        for positions in groups(tasks):
            images = self._draw_group([tasks[position] for position in positions])
            drawn |= zip(positions, images, strict=True)
        return [drawn[position] for position in range(len(tasks))]

    def _draw_group(self, tasks: list[ImageTask]) -> list[Drawn]:
        shape = tasks[0].shape
        prompts, pipeline, torch = prompts_of(tasks), self._pipeline, self._torch
        pipeline.vae.use_slicing = shape.height * shape.width >= _SLICED_FROM_PIXELS
        with torch.inference_mode():
            embeds, pooled, _ = pipeline.encode_prompt(
                prompts.unique, None, max_sequence_length=self._spec.max_sequence_length
            )
            images = pipeline(
                prompt_embeds=embeds[prompts.index],
                pooled_prompt_embeds=pooled[prompts.index],
                height=shape.height,
                width=shape.width,
                num_inference_steps=shape.steps,
                guidance_scale=shape.guidance,
                generator=[torch.Generator("cpu").manual_seed(task.seed) for task in tasks],
            ).images
        counts = [prompts.index.count(place) for place in prompts.index]
        return [Drawn(np.asarray(i), 1 / count) for i, count in zip(images, counts, strict=True)]


def _to_png(drawn: Drawn, task: ImageTask) -> FinishedPng:
    data = encode_image(
        drawn.pixels, output_format="png", output_compression=95, parameters=task.prompt
    )
    return FinishedPng(base64.b64encode(data).decode("ascii"), drawn.encodes)


app = FastAPI(telemetry={"tracing": False})


@ray.serve.deployment
@ray.serve.ingress(app)
class ApiIngress:
    """The route: one handle call per image, so that a request's images may share batches."""

    def __init__(self, model: DeploymentHandle) -> None:
        self._draw = model.options(method_name="draw")

    @app.post("/v1/images/generations")
    async def generate(self, request: ImageRequest, response: Response) -> dict[str, object]:
        """All images of a request; `x-encodes` counts what was encoded for it."""
        tasks = request.tasks()
        finished = await asyncio.gather(*(self._draw.remote(task) for task in tasks))
        response.headers["x-encodes"] = f"{sum(image.encodes for image in finished):.4f}"
        return {
            "created": int(time.time()),
            "data": [
                {"b64_json": image.b64, "seed": task.seed}
                for image, task in zip(finished, tasks, strict=True)
            ],
            "size": request.size,
        }

    @app.get("/readyz")
    async def ready(self) -> dict[str, dict[str, bool]]:
        """As Sluice says it; an application answers only once all its replicas have started."""
        return {"stages": {"FluxModel": True}}


def build(args: BaselineOptions) -> Application:
    """The application with the carried model, without a safety classifier."""
    options = BaselineOptions.model_validate(args)
    spec = next(iter(models().values()))
    held = {"max_ongoing_requests": _UNBOUNDED, "ray_actor_options": {"num_cpus": 0.1}}
    model = FluxModel.options(num_replicas=options.replicas, **held).bind(spec, options)
    return ApiIngress.options(**held).bind(model)
