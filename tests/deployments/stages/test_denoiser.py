from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image

from deployments.graph.steering.steering import Controls
from deployments.options.stages import DenoiserOptions
from deployments.stages.denoiser import Denoiser
from deployments.weights.fingerprint import fingerprint
from deployments.wire.packed import (
    Denoising,
    HandOver,
    PackedCheckpoint,
    PackedConditioning,
    PackedLatents,
    Refusal,
)
from deployments.wire.tensors import pack_conditioning, unpack_latents
from pipelines.contracts import Cut, LatentJob, Latents, SamplingParams, StepEvent
from pipelines.engine.observe.profiling import ProfileRequest
from pipelines.errors import (
    ConfigurationError,
    InvalidRequest,
    RequestTimeout,
    SluiceError,
    StageFailed,
)
from pipelines.flux1.family import DENOISER_PARTS
from pipelines.flux1.prompt_tensors import PromptTensors
from pipelines.previews.preview import Preview
from pipelines.stages.denoiser import DenoiserStage, Trajectory
from tests.chrome_trace import events_of, ticks_of
from tests.deployments.receipts import STAGES
from tests.specs import tiny_spec

EVERY = 3
"""Steps between two checkpoints."""


def _conditioning(width: int = 40) -> PackedConditioning:
    generator = torch.Generator().manual_seed(0)
    tensors = PromptTensors(
        prompt_embeds=torch.randn(16, width, generator=generator),
        pooled_prompt_embeds=torch.randn(24, generator=generator),
    )
    conditioning = tensors.conditioning(num_tokens=3)
    return pack_conditioning(replace(conditioning, timings={"encode": 0.25}))


def _job(work_id: str, *, trace: str = "", **changes: Any) -> LatentJob:
    values: dict[str, Any] = {
        "height": 64,
        "width": 64,
        "num_inference_steps": 2,
        "guidance_scale": 3.5,
        "seed": 0,
    }
    sampling = SamplingParams(**{**values, **changes})
    return LatentJob(work_id=work_id, group="g", sampling=sampling, trace=trace)


@pytest.fixture
async def denoiser(dev_like: Path) -> AsyncIterator[Denoiser]:
    made = Denoiser(tiny_spec(dev_like), DenoiserOptions(checkpoint_every=EVERY, calibration_s=0.1))
    yield made
    made._engine.stop()


async def _stream(
    denoiser: Denoiser,
    job: LatentJob,
    positive: PackedConditioning | None = None,
    negative: PackedConditioning | None = None,
    start: PackedCheckpoint | None = None,
) -> list[Denoising]:
    positive = positive or _conditioning()
    return [item async for item in denoiser.denoise(job, positive, negative, start=start)]


async def _denoise(denoiser: Denoiser, job: LatentJob, *args: Any, **kwargs: Any) -> Latents:
    *_, last = await _stream(denoiser, job, *args, **kwargs)
    if isinstance(last, Refusal):
        raise last.error
    assert isinstance(last, PackedLatents)
    return unpack_latents(last)


def _refused(items: list[Denoising]) -> SluiceError:
    *_, last = items
    assert isinstance(last, Refusal)
    return last.error


async def _until_idle(denoiser: Denoiser) -> None:
    async with asyncio.timeout(60):
        while (await denoiser.stats()).works:  # noqa: ASYNC110  the engine is another thread
            await asyncio.sleep(0.01)


async def _until_it_steps(denoiser: Denoiser) -> None:
    async with asyncio.timeout(60):
        while (await denoiser.stats()).ticks < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_latents_with_timings(denoiser: Denoiser) -> None:
    latents = await _denoise(denoiser, _job("a"))
    assert latents.packed.shape == (16, 64)
    assert (latents.height, latents.width, latents.steps_run) == (64, 64, 2)
    assert latents.timings["encode"] == 0.25
    assert latents.timings["denoise"] > 0
    assert latents.timings["denoise_wait"] >= 0
    assert await denoiser.ready()
    denoiser.check_health()


async def test_spans_say_which_policy_drew_them_from_then_on(denoiser: Denoiser) -> None:
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    for policy in ("edf", "fifo"):
        denoiser.reconfigure({"policy": policy})
        *_, last = await _stream(denoiser, _job("a", trace=trace))
        assert isinstance(last, PackedLatents)
        runs = [span for span in last.spans if span.name == "denoise.run"]
        assert {span.attributes["sluice.policy"] for span in runs} == {policy}


async def test_company_does_not_change_the_latents(denoiser: Denoiser) -> None:
    expected = (await _denoise(denoiser, _job("alone"))).packed
    together = await asyncio.gather(
        _denoise(denoiser, _job("a")),
        _denoise(denoiser, _job("b", height=32, seed=1)),
        _denoise(denoiser, _job("c", true_cfg_scale=2.0), _conditioning(), _conditioning()),
    )
    torch.testing.assert_close(together[0].packed, expected, rtol=1e-4, atol=1e-5)


async def test_steps_are_told_if_they_are_asked_for(denoiser: Denoiser) -> None:
    """The last is not: the latents say it."""
    stream = denoiser.denoise(_job("a", num_inference_steps=4), _conditioning(), step_every_s=0.0)
    items = [item async for item in stream]
    steps = [(item.step, item.num_steps) for item in items if isinstance(item, StepEvent)]
    assert steps == [(1, 4), (2, 4), (3, 4)]
    stream = denoiser.denoise(
        _job("b", num_inference_steps=4), _conditioning(), step_every_s=3600.0
    )
    assert not any([isinstance(item, StepEvent) async for item in stream])


async def test_an_image_goes_on_from_any_of_its_checkpoints(denoiser: Denoiser) -> None:
    *checkpoints, last = await _stream(denoiser, _job("a", num_inference_steps=10))
    assert isinstance(last, PackedLatents)
    assert len(checkpoints) == 3
    for number, start in enumerate(checkpoints):
        assert isinstance(start, PackedCheckpoint)
        ticks = (await denoiser.stats()).ticks
        resumed = await _denoise(
            denoiser, _job(f"again-{number}", num_inference_steps=10), start=start
        )
        assert torch.equal(resumed.packed, unpack_latents(last).packed)
        assert resumed.steps_run == 10
        assert start.step == EVERY * (number + 1)
        assert (await denoiser.stats()).ticks - ticks == 10 - start.step


async def test_a_handover_ends_in_a_checkpoint_and_no_more_is_taken_on(denoiser: Denoiser) -> None:
    job = _job("a", num_inference_steps=10_000)
    call = asyncio.create_task(_stream(denoiser, job))
    await _until_it_steps(denoiser)
    denoiser._engine.hand_over()
    *_, checkpoint, last = await call
    assert isinstance(checkpoint, PackedCheckpoint)
    assert checkpoint.step == (await denoiser.stats()).ticks
    assert isinstance(last, HandOver)
    assert last.was_accepted
    assert await _stream(denoiser, _job("b")) == [HandOver(was_accepted=False)]
    denoiser.check_health()


async def test_a_cancelled_call_leaves_the_engine(denoiser: Denoiser) -> None:
    long = asyncio.create_task(_stream(denoiser, _job("long", num_inference_steps=10_000)))
    other = asyncio.create_task(_denoise(denoiser, _job("other", num_inference_steps=20)))
    await _until_it_steps(denoiser)
    assert (await denoiser.stats()).works == 2
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long
    assert (await other).steps_run == 20
    await _until_idle(denoiser)
    denoiser.check_health()


async def test_a_stream_that_is_closed_leaves_the_engine(denoiser: Denoiser) -> None:
    stream = denoiser.denoise(_job("long", num_inference_steps=10_000), _conditioning())
    assert isinstance(await anext(stream), PackedCheckpoint)
    await cast(AsyncGenerator[Denoising], stream).aclose()
    await _until_idle(denoiser)


async def test_a_conditioning_of_another_model_fails_alone(denoiser: Denoiser) -> None:
    good = asyncio.create_task(_denoise(denoiser, _job("good")))
    with pytest.raises(InvalidRequest):
        await _denoise(denoiser, _job("bad"), _conditioning(width=41))
    assert (await good).steps_run == 2


async def test_an_unexpected_error_is_the_stages_failure(
    denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: DenoiserStage, trajectories: Sequence[Trajectory]) -> None:
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(DenoiserStage, "tick", fail)
    with pytest.raises(StageFailed):
        await _denoise(denoiser, _job("a"))
    await _until_idle(denoiser)


async def test_a_profile_has_the_next_ticks_of_this_replica(denoiser: Denoiser) -> None:
    load = await denoiser.load()
    assert (load.works, load.queued_s) == (0, 0)
    request = ProfileRequest(ticks=2)
    assert await denoiser.profile(request, replica="another") is None
    asked = asyncio.create_task(denoiser.profile(request, replica=load.replica))
    latents = await _denoise(denoiser, _job("a", num_inference_steps=5))
    profile = await asked
    assert (load.tick_tokens, load.tick_s) == (None, None)
    assert (load.knee_tokens or 0) > 0
    denoiser.record_routing_stats()  # as Serve asks every second
    ticked = await denoiser.load()
    assert (ticked.tick_tokens or 0) > 0
    assert (ticked.tick_s or 0) > 0
    assert latents.steps_run == 5
    assert profile is not None
    assert (profile.replica, profile.ticks, profile.ranks) == (load.replica, 2, 1)
    assert len(ticks_of(events_of(profile.trace))) == 2


async def test_a_caller_of_a_profile_who_leaves_makes_room(denoiser: Denoiser) -> None:
    name = (await denoiser.load()).replica
    left = asyncio.create_task(denoiser.profile(ProfileRequest(), replica=name))
    await asyncio.sleep(0)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    with pytest.raises(RequestTimeout, match="no tick"):
        await denoiser.profile(ProfileRequest(timeout_s=0.05), replica=name)


async def test_a_stopped_engine_fails_what_it_still_has(denoiser: Denoiser) -> None:
    call = asyncio.create_task(_stream(denoiser, _job("a", num_inference_steps=10_000)))
    await _until_it_steps(denoiser)
    await asyncio.to_thread(denoiser._engine.stop)
    assert isinstance(_refused(await call), StageFailed)


async def test_a_work_dropped_by_the_engine_is_not_taken_for_our_own_cancellation(
    denoiser: Denoiser,
) -> None:
    call = asyncio.create_task(_stream(denoiser, _job("a", num_inference_steps=10_000)))
    await _until_it_steps(denoiser)
    denoiser._engine.cancel("a")
    assert isinstance(_refused(await call), StageFailed)


async def test_an_image_that_went_on_here_names_all_who_drew_it(
    denoiser: Denoiser, dev_like: Path
) -> None:
    encoder, elsewhere, _ = STAGES
    positive = replace(_conditioning(), drawn_by=(encoder,))
    *checkpoints, last = await _stream(denoiser, _job("a", num_inference_steps=4), positive)
    (own,) = await denoiser.provenance()
    assert (own.part, own.dtype, own.attention) == ("transformer", "float32", "sdpa")
    assert own.device.startswith("cpu ")
    assert own.weights == fingerprint(dev_like, DENOISER_PARTS)
    assert dict(own.versions)["torch"] == version("torch")
    assert isinstance(last, PackedLatents)
    assert last.drawn_by == (encoder, own)
    first = next(each for each in checkpoints if isinstance(each, PackedCheckpoint))
    assert first.drawn_by == (encoder, own)
    start = replace(first, drawn_by=(encoder, elsewhere))
    *_, last = await _stream(denoiser, _job("b", num_inference_steps=4), positive, positive, start)
    assert isinstance(last, PackedLatents)
    assert last.drawn_by == (encoder, elsewhere, own)


async def _with_previews(denoiser: Denoiser, job: LatentJob, **asked: Any) -> list[Denoising]:
    """A call's items, with as many previews as there is time for."""
    return [item async for item in denoiser.denoise(job, _conditioning(), **asked)]


async def test_images_are_shown_to_who_asks_and_are_the_same(
    denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.engine.previewing.EVERY_S", 0.0)
    job = _job("a", num_inference_steps=40, height=96)
    plain = await _with_previews(denoiser, job)
    assert not any(isinstance(item, Preview) for item in plain)
    shown = await _with_previews(denoiser, job, previews=True)
    previews = [item for item in shown if isinstance(item, Preview)]
    assert previews
    steps = [each.step for each in previews]
    assert steps == sorted(set(steps))
    assert all(0 < step < 40 for step in steps)
    assert {(each.num_steps, each.width, each.height) for each in previews} == {(40, 64, 96)}
    assert Image.open(io.BytesIO(previews[0].data)).size == (64, 96)
    before, after = plain[-1], shown[-1]
    assert isinstance(before, PackedLatents)
    assert isinstance(after, PackedLatents)
    assert torch.equal(unpack_latents(before).packed, unpack_latents(after).packed)


async def test_previews_are_switched_on_and_off_on_the_way(
    denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.engine.previewing.EVERY_S", 0.0)
    job = _job("a", num_inference_steps=20_000)
    stream = denoiser.denoise(
        job, _conditioning(), step_every_s=1e-6, controls=Controls(previews=False), previews=True
    )
    async with aclosing(cast(AsyncGenerator[Denoising], stream)) as items:
        seen = [await anext(items) for _ in range(20)]
        assert not any(isinstance(item, Preview) for item in seen)
        await denoiser.steer("other", Controls(previews=True))
        await denoiser.steer("g", Controls(previews=True))
        while not isinstance(await anext(items), Preview):
            pass
        await denoiser.steer("g", Controls(previews=False))
        (entry,) = denoiser._engine._entries.of_group("g")
        assert not entry.is_shown
        await denoiser.steer("g", Controls(keep=True))
        *_, last = [item async for item in items]
    assert isinstance(last, PackedLatents)
    assert last.cuts == (Cut(last.steps_run - 1, last.steps_run),)
    assert 1 < last.steps_run < 20_000


async def test_without_previews_nothing_is_shown_nor_loaded_for_it(dev_like: Path) -> None:
    options = DenoiserOptions(calibration_s=0.1, previews=False)
    made = Denoiser(tiny_spec(dev_like), options)
    try:
        assert made._engine._previewing._previewer is None
        items = await _with_previews(made, _job("a", num_inference_steps=10), previews=True)
        assert not any(isinstance(item, Preview) for item in items)
    finally:
        made.close()


def test_a_decoder_of_previews_for_other_latents_stops_the_start(
    dev_like: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderTiny"}')
    options = DenoiserOptions(calibration_s=0.1, preview_decoder=tmp_path)
    with pytest.raises(ConfigurationError, match=r"denoiser\.preview_decoder: .* of 4 channels"):
        Denoiser(tiny_spec(dev_like), options)
