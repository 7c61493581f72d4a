"""Reports: what an engine tells of one work, from its threads to the event loop of a call."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future

from pipelines.contracts import Checkpoint, Latents, StepEvent
from pipelines.errors import StageFailed
from pipelines.previews.preview import Preview

Report = Checkpoint | StepEvent | Preview | Future[Latents]


class Reports:
    """What the engine's thread reports of one work, for the event loop that made this object."""

    def __init__(self, step_every_s: float | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue = asyncio.Queue[Report]()
        self._step_every_s = step_every_s or 0.0
        self._reported_at = time.monotonic()

    def put_step(self, event: StepEvent) -> None:
        """Called from the engine's thread with every step; does not block."""
        now = time.monotonic()
        if event.step < event.num_steps and now - self._reported_at >= self._step_every_s:
            self._reported_at = now
            self.put(event)

    def put(self, report: Report) -> None:
        """Called from any thread; does not block."""
        self._loop.call_soon_threadsafe(self._queue.put_nowait, report)

    async def get(self) -> Report:
        """The next report; the future, once it is done, is the last."""
        return await self._queue.get()


def result_of(future: Future[Latents]) -> Latents:
    """The result of a future that is done; the engine cancels one whose work was taken out."""
    if future.cancelled():
        raise StageFailed("the denoiser dropped this image", stage="Denoiser")
    return future.result()
