"""Denoiser: the engine in a thread of its own, and a coroutine per image that waits for it.

A replica's event loop never computes: a call hands its job to the engine and awaits the result; a
call that is cancelled takes its work out of the engine, which notices at the next tick.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

from deployments.boundary import Boundary, starting
from deployments.engine_builder import build_engine
from deployments.options import DenoiserOptions
from deployments.wire import (
    PackedConditioning,
    PackedLatents,
    pack_latents,
    unpack_conditioning,
)
from pipelines.catalog import ModelSpec
from pipelines.contracts import LatentJob, Latents
from pipelines.engine.stats import EngineStats
from pipelines.errors import StageFailed


class Denoiser:
    """Ray Serve deployment over `Engine` and `DenoiserStage`."""

    def __init__(self, spec: ModelSpec, options: DenoiserOptions) -> None:
        with starting("Denoiser", options):
            import torch

            from pipelines.stages.denoiser import DenoiserStage

            torch.set_num_threads(options.resolved_threads)
            stage = DenoiserStage.load(
                spec.source,
                device=options.resolved_device,
                dtype=options.dtype,
                attention=options.attention,
            )
            self._engine = build_engine(stage, spec, options)
            self._engine.start()
        self._boundary = Boundary("Denoiser")

    async def denoise(
        self,
        job: LatentJob,
        positive: PackedConditioning,
        negative: PackedConditioning | None = None,
    ) -> PackedLatents:
        """The finished latents of one image; `timings` are the encoder's and the engine's.

        A work whose call is cancelled leaves the engine at its next tick. Raises
        DegenerateImage, Overloaded, StageFailed.
        """
        with self._boundary.call():
            # Left on the CPU: the engine's thread moves them, as this one must not wait for a GPU.
            future = self._engine.submit(
                job,
                unpack_conditioning(positive),
                None if negative is None else unpack_conditioning(negative),
            )
            latents = await self._result(job.work_id, future)
            return await asyncio.to_thread(pack_latents, latents)

    async def stats(self) -> EngineStats:
        """Works, queued tokens and ticks of this replica's engine."""
        return self._engine.stats()

    async def ready(self) -> bool:
        """True: the constructor returns only once the weights are loaded and the engine runs."""
        return True

    def check_health(self) -> None:
        """Raises StageFailed when the engine has died or denoising has stopped working."""
        self._engine.check_health()
        self._boundary.check_health()

    def __del__(self) -> None:
        if hasattr(self, "_engine"):
            self._engine.stop()

    async def _result(self, work_id: str, future: Future[Latents]) -> Latents:
        """Wait for the engine; a cancelled call cancels its work."""
        task = asyncio.current_task()
        assert task is not None
        try:
            # Shielded: the engine alone may end its futures.
            return await asyncio.shield(asyncio.wrap_future(future))
        except asyncio.CancelledError:
            if not task.cancelling():
                raise StageFailed("the denoiser dropped this image", stage="Denoiser") from None
            self._engine.cancel(work_id)
            raise
