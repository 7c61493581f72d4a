"""Sampling against the diffusers functions that it must equal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import CheckpointError
from pipelines.sampling import draw_noise, euler_step, make_schedule, pack, position_ids, unpack

CPU = torch.device("cpu")


@given(rows=st.integers(1, 9), columns=st.integers(1, 9), channels=st.sampled_from([4, 16]))
def test_pack_is_the_pipelines_and_unpack_undoes_it(rows: int, columns: int, channels: int) -> None:
    latents = torch.randn(2, channels, 2 * rows, 2 * columns)
    packed = pack(latents)
    theirs = FluxPipeline._pack_latents(latents, 2, channels, 2 * rows, 2 * columns)
    assert torch.equal(packed, theirs)
    assert torch.equal(unpack(packed, height=16 * rows, width=16 * columns), latents)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_euler_step_is_the_schedulers(dtype: torch.dtype) -> None:
    scheduler: Any = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    schedule = make_schedule(dict(scheduler.config), num_steps=5, image_tokens=256, device=CPU)
    scheduler.set_timesteps(sigmas=[1.0, 0.8, 0.6, 0.4, 0.2], mu=0.5)
    assert torch.equal(schedule.sigmas, scheduler.sigmas)
    assert torch.equal(schedule.timesteps, scheduler.timesteps)
    latents = torch.randn(1, 16, 64).to(dtype)
    ours = latents[0]
    for index, timestep in enumerate(scheduler.timesteps):
        velocity = torch.randn(1, 16, 64).to(dtype)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        ours = euler_step(ours, velocity[0], schedule.sigmas[index : index + 2])
    assert ours.dtype == dtype
    assert torch.equal(ours, latents[0])


def test_more_image_tokens_shift_a_dynamic_schedule_only() -> None:
    dynamic = dict(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True).config)
    static = dict(FlowMatchEulerDiscreteScheduler(shift=3.0).config)

    def second_sigma(config: dict[str, object], tokens: int) -> float:
        schedule = make_schedule(config, num_steps=4, image_tokens=tokens, device=CPU)
        assert schedule.num_steps == 4
        return float(schedule.sigmas[1])

    assert second_sigma(dynamic, 4096) > second_sigma(dynamic, 256)
    assert second_sigma(static, 4096) == second_sigma(static, 256)


def test_a_stochastic_sampler_is_refused() -> None:
    config = dict(FlowMatchEulerDiscreteScheduler(stochastic_sampling=True).config)
    with pytest.raises(CheckpointError, match="stochastic_sampling"):
        make_schedule(config, num_steps=2, image_tokens=4, device=CPU)


def test_noise_depends_on_the_seed_alone() -> None:
    def noise(seed: int) -> torch.Tensor:
        return draw_noise(
            seed, height=32, width=64, latent_channels=16, device=CPU, dtype=torch.float32
        )

    assert noise(1).shape == (8, 64)
    assert torch.equal(noise(1), noise(1))
    assert not torch.equal(noise(1), noise(2))


def test_position_ids_are_the_pipelines() -> None:
    ids = position_ids(3, height=32, width=48, device=CPU, dtype=torch.float32)
    theirs = FluxPipeline._prepare_latent_image_ids(1, 2, 3, CPU, torch.float32)
    assert torch.equal(ids[:3], torch.zeros(3, 3))
    assert torch.equal(ids[3:], theirs)
