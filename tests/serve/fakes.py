"""The one fake of the HTTP tests: a graph and a store in memory, with the product's protocols."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from deployments.graph.forecast import Forecast
from deployments.graph.progress import ImageProgress, Listener, Phase, unheard
from deployments.storage.store import StoredFile
from pipelines.catalog import ModelSpec
from pipelines.contracts import (
    FinishedImage,
    GenerationJob,
    GenerationParams,
    GenerationResult,
    Usage,
)
from pipelines.errors import FileNotStored, SluiceError
from pipelines.moderation import PromptRules
from pipelines.tracing.open_spans import OpenSpan
from pipelines.tracing.spans import Timings
from serve.api.services import Services
from serve.settings.settings import Settings

SPEC = ModelSpec(
    name="test-model",
    source="nowhere",
    description="A model of the tests.",
    license="apache-2.0",
    created=1_700_000_000,
    height=64,
    width=64,
    num_inference_steps=12,
    guidance_scale=3.5,
    guidance_embeds=True,
    max_sequence_length=20,
    max_side=512,
    parameters=1_000_000,
)

PIXELS = b"\x89PNG\r\n\x1a\n" + bytes(32)
"""Stands for the file of every image; the HTTP side never looks inside."""


@dataclass
class FakeStore:
    """A dictionary of files."""

    files: dict[str, StoredFile] = field(default_factory=dict)

    def put(self, data: bytes, content_type: str) -> str:
        file_id = f"{len(self.files):032x}"
        self.files[file_id] = StoredFile(data=data, content_type=content_type)
        return file_id

    def get(self, file_id: str) -> StoredFile:
        if file_id not in self.files:
            raise FileNotStored(f"no file {file_id!r} is stored here", file_id=file_id)
        return self.files[file_id]


@dataclass
class FakeGraph:
    """Answers every job at once with `PIXELS`, or fails, or hangs, as it is told.

    `jobs` are the jobs it was given, `cancelled` the ids of those cancelled while they hung;
    `entered` is released by each job. `steps_run` is what each image is said to have taken, by
    default what was asked for, `resumed_at`, `cold_stages` and `cold_start_s` are every result's,
    and `forecast_of` is every request's forecast; hanging jobs go on when `go` is set.
    """

    store: FakeStore = field(default_factory=FakeStore)
    error: BaseException | None = None
    hangs: bool = False
    go: asyncio.Event = field(default_factory=asyncio.Event)
    steps_run: int | None = None
    resumed_at: tuple[int, ...] = ()
    cold_stages: tuple[str, ...] = ()
    cold_start_s: float = 0.0
    forecast_of: Forecast = field(default_factory=lambda: Forecast(asleep=(), cold_start_s=0.0))
    forecast_for: list[GenerationParams] = field(default_factory=list)
    stages: Mapping[str, bool] = field(default_factory=lambda: {"TextEncoder": True})
    jobs: list[GenerationJob] = field(default_factory=list)
    entered: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    cancelled: list[str] = field(default_factory=list)
    tells_step: int = 5
    """How far its images are when jobs hang, as their listeners are told."""
    not_stored: str = ""
    """Why no file can be stored; "": it can."""

    async def generate(
        self, job: GenerationJob, log: OpenSpan | None = None, listener: Listener = unheard
    ) -> GenerationResult:
        self.jobs.append(job)
        self.entered.release()
        images = [ImageProgress(i, job.params, listener) for i in range(job.params.num_images)]
        for image in images:
            image.enters(Phase.ENCODE)
            image.stepped(self.tells_step, job.params.num_inference_steps)
        if self.hangs:
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.cancelled.append(job.request_id)
                raise
        if self.error is not None:
            raise self.error
        for image in images:
            image.denoised(self.steps_run or job.params.num_inference_steps)
            image.enters(Phase.DONE)
        return GenerationResult(
            images=tuple(self._image(job, i) for i in range(job.params.num_images)),
            usage=Usage(input_tokens=7, output_tokens=16 * job.params.num_images),
            warnings=("from the graph",) if "warn me" in job.params.prompt else (),
            timings=self._timings(),
            resumed_at=self.resumed_at,
            cold_stages=self.cold_stages,
        )

    def forecast(self, params: GenerationParams) -> Forecast:
        self.forecast_for.append(params)
        return self.forecast_of

    async def ready(self) -> Mapping[str, bool]:
        if isinstance(self.error, SluiceError):
            raise self.error
        return self.stages

    def _timings(self) -> Timings:
        cold = {"cold_start": self.cold_start_s} if self.cold_stages else {}
        return {"encode": 0.004, "denoise.wait": 0.0015, **cold}

    def _image(self, job: GenerationJob, index: int) -> FinishedImage:
        finish, content_type = job.finish, f"image/{job.finish.output_format}"
        fault = self.not_stored if finish.store else ""
        return FinishedImage(
            b64=base64.b64encode(PIXELS).decode() if finish.inline or fault else None,
            file_id=self.store.put(PIXELS, content_type) if finish.store and not fault else None,
            not_stored=fault,
            output_format=finish.output_format,
            width=job.params.width,
            height=job.params.height,
            seed=job.params.seed + index,
            sha256=hashlib.sha256(PIXELS).hexdigest(),
            num_bytes=len(PIXELS),
            steps_run=self.steps_run or job.params.num_inference_steps,
        )


def finished() -> FinishedImage:
    """A finished image, as of a graph."""
    return FinishedImage(
        b64=base64.b64encode(PIXELS).decode(),
        file_id=None,
        output_format="png",
        width=64,
        height=64,
        seed=1,
        sha256=hashlib.sha256(PIXELS).hexdigest(),
        num_bytes=len(PIXELS),
    )


def services(
    graph: FakeGraph | None = None,
    *,
    spec: ModelSpec = SPEC,
    rules: PromptRules | None = None,
    now: Callable[[], float] = time.time,
    **settings: object,
) -> Services:
    """Services over a fake graph; `settings` are nested settings or dotted keys."""
    graph = graph or FakeGraph()
    loaded = Settings.load(settings)
    return Services.over(graph, graph.store, settings=loaded, spec=spec, rules=rules, now=now)
