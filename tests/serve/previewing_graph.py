"""PreviewingGraph: the fake graph, and what images would be on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deployments.graph.listening.events import ImagePreview
from deployments.graph.listening.listener import Listener, unheard
from pipelines.contracts import GenerationJob, GenerationResult
from pipelines.tracing.open_spans import OpenSpan
from tests.serve.fakes import FakeGraph


def preview_after(step: int) -> bytes:
    """Stands for the file of a preview; the HTTP side never looks inside."""
    return b"\xff\xd8\xff" + bytes([step])


@dataclass
class PreviewingGraph(FakeGraph):
    """Shows each image as it would be after `preview_steps`, if that is wanted, and then goes on as
    any fake graph: hangs, fails or answers."""

    preview_steps: Sequence[int] = ()
    previews_shown: int = 0

    async def generate(
        self,
        job: GenerationJob,
        log: OpenSpan | None = None,
        listener: Listener = unheard,
        **rest: Any,
    ) -> GenerationResult:
        for step in self.preview_steps:
            for image in range(job.params.num_images):
                if listener.wants_previews:
                    self.previews_shown += 1
                    listener(
                        ImagePreview(
                            image=image,
                            step=step,
                            num_steps=job.params.num_inference_steps,
                            data=preview_after(step),
                            media_type="image/jpeg",
                            width=job.params.width,
                            height=job.params.height,
                        )
                    )
            await asyncio.sleep(0)
        return await super().generate(job, log, listener, **rest)
