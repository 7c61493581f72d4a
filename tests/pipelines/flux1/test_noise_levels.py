"""Noise levels against diffusers' scheduler, called as `FluxPipeline` calls it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.errors import CheckpointError
from pipelines.flux1.noise_levels import check_scheduler, sigma_range
from pipelines.flux1.schedule import make_schedule

CPU = torch.device("cpu")

PLAIN = st.fixed_dictionaries(
    {},
    optional={
        "use_dynamic_shifting": st.booleans(),
        "time_shift_type": st.sampled_from(["exponential", "linear"]),
        "shift": st.sampled_from([1.0, 1.15, 3, 3.0]),
        "num_train_timesteps": st.sampled_from([1000, 500]),
        "base_shift": st.floats(0.1, 1.0),
        "max_shift": st.floats(1.1, 2.0),
        "base_image_seq_len": st.integers(1, 300),
        "max_image_seq_len": st.integers(301, 9000),
        "use_flow_sigmas": st.booleans(),
    },
)


def theirs(config: dict[str, Any], num_steps: int, image_tokens: int) -> Any:
    scheduler: Any = FlowMatchEulerDiscreteScheduler.from_config(config)
    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    mu = calculate_shift(image_tokens, *(scheduler.config[name] for name in names))
    sigmas = None if config.get("use_flow_sigmas") else np.linspace(1.0, 1 / num_steps, num_steps)
    scheduler.set_timesteps(num_steps, device=CPU, sigmas=sigmas, mu=mu)
    return scheduler


def check(config: dict[str, Any], num_steps: int, image_tokens: int) -> None:
    ours = make_schedule(config, num_steps=num_steps, image_tokens=image_tokens, device=CPU)
    expected = theirs(config, num_steps, image_tokens)
    assert ours.sigmas.dtype == ours.timesteps.dtype == torch.float32
    assert torch.equal(ours.sigmas, expected.sigmas)
    assert torch.equal(ours.timesteps, expected.timesteps)


def _is_finite(config: dict[str, Any], num_steps: int, image_tokens: int) -> bool:
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            return bool(theirs(config, num_steps, image_tokens).sigmas.isfinite().all())
    except OverflowError:
        return False


# Shifted beyond what float32 holds, and float64.
@example(
    config={"use_dynamic_shifting": True, "max_image_seq_len": 301},
    num_steps=1,
    image_tokens=16384,
)
@example(
    config={
        "use_dynamic_shifting": True,
        "use_flow_sigmas": True,
        "base_image_seq_len": 300,
        "max_image_seq_len": 301,
    },
    num_steps=1,
    image_tokens=16384,
)
@given(config=PLAIN, num_steps=st.integers(1, 60), image_tokens=st.integers(1, 16384))
def test_levels_are_diffusers_to_the_bit(
    config: dict[str, Any], num_steps: int, image_tokens: int
) -> None:
    if _is_finite(config, num_steps, image_tokens):
        check(config, num_steps, image_tokens)
    else:
        with pytest.raises(CheckpointError, match="leaves no noise levels"):
            make_schedule(config, num_steps=num_steps, image_tokens=image_tokens, device=CPU)
    scheduler: Any = FlowMatchEulerDiscreteScheduler.from_config(config)
    assert sigma_range(config) == (scheduler.sigma_min, scheduler.sigma_max)


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize(
    "setting",
    [
        {"use_karras_sigmas": True},
        {"use_exponential_sigmas": True},
        {"shift_terminal": 0.02},
        {"invert_sigmas": True},
    ],
    ids=str,
)
def test_what_is_left_to_diffusers_is_diffusers(setting: dict[str, Any], flow: bool) -> None:
    check({"shift": 3.0, "use_flow_sigmas": flow, **setting}, 6, 1024)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"stochastic_sampling": True}, "stochastic_sampling is not supported"),
        ({"time_shift_type": "cubic"}, "time_shift_type is 'cubic', not one of exponential"),
        ({"use_karras_sigmas": True, "use_exponential_sigmas": True}, "Only one of"),
    ],
    ids=str,
)
def test_a_scheduler_without_schedules_is_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        check_scheduler(config)
