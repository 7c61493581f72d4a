"""The one fake of the HTTP tests: a graph and a store in memory, with the product's protocols."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from deployments.graph.forecast import Forecast
from deployments.graph.listening.events import Phase
from deployments.graph.listening.listener import Listener, unheard
from deployments.graph.listening.progress_reporter import ProgressReporter
from deployments.graph.steering.steering import Steering
from deployments.storage.store import StoredFile, id_of_owner
from deployments.wire.packed import PromptFacts
from deployments.wire.parts import NOTHING_DONE, ImageDrawn, Part
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
from serve.jobs.store.open_store import Store
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
    num_put: int = 0

    def put(self, data: bytes, content_type: str, owner: str = "") -> str:
        # As many as there were, so that ids are the same in every run; a deleted one is not reused.
        self.num_put += 1
        file_id = id_of_owner(f"{self.num_put - 1:032x}", owner)
        self.files[file_id] = StoredFile(data=data, content_type=content_type)
        return file_id

    def get(self, file_id: str) -> StoredFile:
        if file_id not in self.files:
            raise FileNotStored(f"no file {file_id!r} is stored here", file_id=file_id)
        return self.files[file_id]

    def delete(self, file_id: str) -> None:
        self.files.pop(file_id, None)


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
    resumes: list[Mapping[int, Part]] = field(default_factory=list)
    steerings: list[Steering | None] = field(default_factory=list)
    """What each job was to go on from, and how it is steered."""
    tells_step: int = 5
    """How far its images are when jobs hang, as their listeners are told."""
    not_stored: str = ""
    """Why no file can be stored; "": it can."""
    timings: Timings = field(default_factory=lambda: {"encode": 0.004, "denoise.wait": 0.0015})

    async def generate(
        self,
        job: GenerationJob,
        log: OpenSpan | None = None,
        listener: Listener = unheard,
        *,
        resume: Mapping[int, Part] = NOTHING_DONE,
        steering: Steering | None = None,
    ) -> GenerationResult:
        self.jobs.append(job)
        self.resumes.append(resume)
        self.steerings.append(steering)
        self.entered.release()
        images = [ProgressReporter(i, job.params, listener) for i in range(job.params.num_images)]
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
        files: list[FinishedImage] = []
        for index, image in enumerate(images):
            if isinstance(part := resume.get(index), ImageDrawn):
                files.append(part.file)
                image.was_drawn(part.file)
                continue
            image.denoised(self.steps_run or job.params.num_inference_steps)
            files.append(self._image(job, index))
            image.drawn(files[-1], (PromptFacts(num_tokens=7),))
        return GenerationResult(
            images=tuple(files),
            usage=Usage(
                input_tokens=7,
                output_tokens=16 * job.params.num_images,
                device_seconds=sum(file.device_seconds for file in files),
                megapixel_steps=sum(file.megapixel_steps for file in files),
            ),
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
        return {**self.timings, **cold}

    def _image(self, job: GenerationJob, index: int) -> FinishedImage:
        finish, content_type = job.finish, f"image/{job.finish.output_format}"
        fault = self.not_stored if finish.store else ""
        return FinishedImage(
            b64=base64.b64encode(PIXELS).decode() if finish.inline or fault else None,
            file_id=self.store.put(PIXELS, content_type, finish.owner)
            if finish.store and not fault
            else None,
            not_stored=fault,
            output_format=finish.output_format,
            width=job.params.width,
            height=job.params.height,
            seed=job.params.seed + index,
            sha256=hashlib.sha256(PIXELS).hexdigest(),
            num_bytes=len(PIXELS),
            steps_run=self.steps_run or job.params.num_inference_steps,
            device_seconds=0.25,
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
    job_store: Store | None = None,
    **settings: object,
) -> Services:
    """Services over a fake graph; `settings` are nested settings or dotted keys. Without a
    `job_store` there are no jobs."""
    graph = graph or FakeGraph()
    loaded = Settings.load(settings)
    return Services.over(
        graph,
        graph.store,
        settings=loaded,
        spec=spec,
        rules=rules,
        now=now,
        job_store=job_store,
        replica="here",
    )
