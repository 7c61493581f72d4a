from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from deployments.denoiser import Denoiser
from deployments.options import DenoiserOptions
from deployments.wire import PackedConditioning, pack_conditioning, unpack_latents
from pipelines.contracts import LatentJob, TextConditioning
from pipelines.errors import InvalidRequest, StageFailed
from pipelines.stages.denoiser import DenoiserStage, Trajectory


def _conditioning(width: int = 40) -> PackedConditioning:
    generator = torch.Generator().manual_seed(0)
    return pack_conditioning(
        TextConditioning(
            prompt_embeds=torch.randn(16, width, generator=generator),
            pooled_prompt_embeds=torch.randn(24, generator=generator),
            num_tokens=3,
            timings={"encode": 0.25},
        )
    )


def _job(work_id: str, **changes: Any) -> LatentJob:
    values: dict[str, Any] = {
        "group": "g",
        "height": 64,
        "width": 64,
        "num_inference_steps": 2,
        "guidance_scale": 3.5,
        "seed": 0,
    }
    return LatentJob(work_id=work_id, **{**values, **changes})


@pytest.fixture
async def denoiser(dev_like: Path) -> AsyncIterator[Denoiser]:
    made = Denoiser(str(dev_like), DenoiserOptions())
    yield made
    made._engine.stop()


async def _until_idle(denoiser: Denoiser) -> None:
    async with asyncio.timeout(20):
        while (await denoiser.stats()).works:  # noqa: ASYNC110  the engine is another thread
            await asyncio.sleep(0.01)


async def test_latents_with_timings(denoiser: Denoiser) -> None:
    packed = await denoiser.denoise(_job("a"), _conditioning())
    latents = unpack_latents(packed)
    assert latents.packed.shape == (16, 64)
    assert (latents.height, latents.width, latents.steps_run) == (64, 64, 2)
    assert latents.timings["encode"] == 0.25
    assert latents.timings["denoise"] > 0
    assert latents.timings["denoise_wait"] >= 0
    assert await denoiser.ready()
    denoiser.check_health()


async def test_company_does_not_change_the_latents(denoiser: Denoiser) -> None:
    alone = await denoiser.denoise(_job("alone"), _conditioning())
    together = await asyncio.gather(
        denoiser.denoise(_job("a"), _conditioning()),
        denoiser.denoise(_job("b", height=32, seed=1), _conditioning()),
        denoiser.denoise(_job("c", true_cfg_scale=2.0), _conditioning(), _conditioning()),
    )
    expected = unpack_latents(alone).packed
    torch.testing.assert_close(unpack_latents(together[0]).packed, expected, rtol=1e-4, atol=1e-5)


async def test_a_cancelled_call_leaves_the_engine(denoiser: Denoiser) -> None:
    long = asyncio.create_task(
        denoiser.denoise(_job("long", num_inference_steps=10_000), _conditioning())
    )
    other = asyncio.create_task(
        denoiser.denoise(_job("other", num_inference_steps=20), _conditioning())
    )
    async with asyncio.timeout(20):
        while (await denoiser.stats()).ticks < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert (await denoiser.stats()).works == 2
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long
    assert (await other).steps_run == 20
    await _until_idle(denoiser)
    denoiser.check_health()


async def test_a_conditioning_of_another_model_fails_alone(denoiser: Denoiser) -> None:
    good = asyncio.create_task(denoiser.denoise(_job("good"), _conditioning()))
    with pytest.raises(InvalidRequest):
        await denoiser.denoise(_job("bad"), _conditioning(width=41))
    assert (await good).steps_run == 2


async def test_an_unexpected_error_is_the_stages_failure(
    denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: DenoiserStage, trajectories: Sequence[Trajectory]) -> None:
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(DenoiserStage, "tick", fail)
    with pytest.raises(StageFailed):
        await denoiser.denoise(_job("a"), _conditioning())
    await _until_idle(denoiser)


async def test_a_stopped_engine_fails_what_it_still_has(denoiser: Denoiser) -> None:
    call = asyncio.create_task(
        denoiser.denoise(_job("a", num_inference_steps=10_000), _conditioning())
    )
    await asyncio.sleep(0.05)
    await asyncio.to_thread(denoiser._engine.stop)
    with pytest.raises(StageFailed):
        await call


async def test_a_work_dropped_by_the_engine_is_not_taken_for_our_own_cancellation(
    denoiser: Denoiser,
) -> None:
    call = asyncio.create_task(
        denoiser.denoise(_job("a", num_inference_steps=10_000), _conditioning())
    )
    await asyncio.sleep(0.05)
    denoiser._engine.cancel("a")
    with pytest.raises(StageFailed):
        await call
