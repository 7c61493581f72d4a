"""Sampling against the diffusers functions that it must equal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from pipelines.flux1.schedule import make_schedule
from pipelines.sampling import euler_step, extrapolate

CPU = torch.device("cpu")


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extrapolation_is_linear(dtype: torch.dtype) -> None:
    last, velocity = torch.zeros(2, 3, dtype=dtype), torch.ones(2, 3, dtype=dtype)
    ahead = extrapolate(velocity, last, 0.5)
    assert ahead.dtype == dtype
    assert torch.equal(ahead, torch.full((2, 3), 1.5, dtype=dtype))
