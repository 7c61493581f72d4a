"""A fake graph that draws step by step, so that its images can go on elsewhere."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from deployments.graph.listening.events import ImagePreview, Phase
from deployments.graph.listening.listener import Listener, tell, unheard
from deployments.graph.listening.progress_reporter import ProgressReporter
from deployments.graph.steering.steering import Steering
from deployments.wire.packed import PackedCheckpoint, PackedTensor, PromptFacts
from deployments.wire.parts import NOTHING_DONE, ImageCheckpoint, ImageDrawn, Part
from pipelines.contracts import FinishedImage, GenerationJob, GenerationResult, Usage
from pipelines.errors import SluiceError
from pipelines.tracing.open_spans import OpenSpan
from tests.serve.fakes import FakeGraph

FACTS = (PromptFacts(num_tokens=7),)


@dataclass
class SteppingGraph(FakeGraph):
    """Each step makes an image's state from the one before, and its file is the last.

    A step waits for `allow`; `stepped` are (seed, step) of each that was done, `drawn` the seeds of
    images that were finished. `errors` are raised by the next calls, one each, before anything.
    """

    errors: list[SluiceError] = field(default_factory=list)
    allowed: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    stepped: list[tuple[int, int]] = field(default_factory=list)
    drawn: list[int] = field(default_factory=list)

    def allow(self, steps: int = 10_000) -> None:
        for _ in range(steps):
            self.allowed.release()

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
        if self.errors:
            raise self.errors.pop(0)
        try:
            files = [
                await self._draw(job, index, listener, resume.get(index), steering)
                for index in range(job.params.num_images)
            ]
        except asyncio.CancelledError:
            self.cancelled.append(job.request_id)
            raise
        usage = Usage(
            input_tokens=7, output_tokens=16 * len(files), device_seconds=0.5, megapixel_steps=0.25
        )
        return GenerationResult(images=tuple(files), usage=usage, timings={"total": 1.5})

    async def _draw(
        self,
        job: GenerationJob,
        index: int,
        listener: Listener,
        part: Part | None,
        steering: Steering | None,
    ) -> FinishedImage:
        start = part.checkpoint if isinstance(part, ImageCheckpoint) else None
        progress = ProgressReporter(index, job.params, listener, start=start)
        if isinstance(part, ImageDrawn):
            progress.was_drawn(part.file)
            return part.file
        progress.enters(Phase.ENCODE)
        seed, total = job.params.seed + index, job.params.num_inference_steps
        state, step = hashlib.sha256(str(seed).encode()).digest(), 0
        if start is not None:
            state = start.latents.values.astype(np.uint8).tobytes()
            step = start.step
        while step < total and not (steering is not None and steering.controls.keep and step):
            await self.allowed.acquire()
            state, step = hashlib.sha256(state).digest(), step + 1
            self.stepped.append((seed, step))
            values = np.frombuffer(state, dtype=np.uint8).astype(np.float32).reshape(8, 4)
            checkpoint = PackedCheckpoint(
                step=step, latents=PackedTensor(values=values, dtype="float32")
            )
            progress.checkpointed(checkpoint)
            tell(
                listener,
                ImagePreview(
                    image=index,
                    step=step,
                    num_steps=total,
                    data=state,
                    media_type="image/webp",
                    width=64,
                    height=64,
                ),
            )
        progress.denoised(step)
        file = replace(self._image(job, index), steps_run=step)
        if file.file_id is not None:
            stored = self.store.files[file.file_id]
            self.store.files[file.file_id] = replace(stored, data=state)
        self.drawn.append(seed)
        progress.drawn(file, FACTS)
        return file
