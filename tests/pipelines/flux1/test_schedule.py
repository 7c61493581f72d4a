"""Schedules and their cuts, against diffusers' scheduler."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from pipelines.contracts import Cut
from pipelines.errors import CheckpointError, UnsupportedFeature
from pipelines.flux1.schedule import cut_schedule, make_schedule
from pipelines.sampling import Schedule

CPU = torch.device("cpu")


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


CONFIGS: dict[str, dict[str, Any]] = {
    "dynamic": dict(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True).config),
    "linear": dict(
        FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="linear").config
    ),
    "static": dict(FlowMatchEulerDiscreteScheduler(shift=3.0).config),
    "flow": {**FlowMatchEulerDiscreteScheduler(shift=3.0).config, "use_flow_sigmas": True},
}


def schedule_of(config: dict[str, Any], num_steps: int) -> Schedule:
    return make_schedule(config, num_steps=num_steps, image_tokens=1024, device=CPU)


@given(config=st.sampled_from(sorted(CONFIGS)), data=st.data())
def test_a_cut_goes_on_from_where_it_stands(config: str, data: st.DataObject) -> None:
    """And so do the cuts after it: what is behind stays, what is ahead falls to 0 in order."""
    schedule = schedule_of(CONFIGS[config], data.draw(st.integers(2, 30)))
    step = 0
    for _ in range(3):
        if schedule.num_steps - step < 2:
            break
        step = data.draw(st.integers(step, schedule.num_steps - 2))
        num_steps = data.draw(st.integers(step + 1, schedule.num_steps - 1))
        cut = cut_schedule(schedule, Cut(step, num_steps), CONFIGS[config], image_tokens=1024)
        assert cut.num_steps == num_steps == len(cut.sigmas) - 1 == len(cut.unshifted)
        assert torch.equal(cut.sigmas[: step + 1], schedule.sigmas[: step + 1])
        assert torch.equal(cut.timesteps[: step + 1], schedule.timesteps[: step + 1])
        assert torch.allclose(cut.timesteps, 1000 * cut.sigmas[:-1])
        assert bool((cut.sigmas.diff() < 0).all())
        assert cut.sigmas[-1] == 0
        schedule = cut


@pytest.mark.parametrize("config", CONFIGS)
def test_a_cut_at_the_start_is_the_schedule_of_fewer_steps(config: str) -> None:
    cut = cut_schedule(
        schedule_of(CONFIGS[config], 10), Cut(0, 4), CONFIGS[config], image_tokens=1024
    )
    fresh = schedule_of(CONFIGS[config], 4)
    assert torch.equal(cut.sigmas, fresh.sigmas)
    assert torch.equal(cut.timesteps, fresh.timesteps)


@pytest.mark.parametrize("config", ["dynamic", "linear", "static"])
def test_a_cut_that_divides_the_rest_meets_its_levels(config: str) -> None:
    """Of ten steps two are done: the other eight in four are every second of them."""
    full = schedule_of(CONFIGS[config], 10)
    cut = cut_schedule(full, Cut(2, 6), CONFIGS[config], image_tokens=1024)
    expected = [*full.sigmas[:2].tolist(), *full.sigmas[2::2].tolist()]
    assert cut.sigmas.tolist() == pytest.approx(expected, abs=1e-6)


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
def test_schedules_that_hang_together_are_not_cut(setting: dict[str, Any]) -> None:
    config = dict(FlowMatchEulerDiscreteScheduler(**setting).config)
    schedule = schedule_of(config, 6)
    with pytest.raises(UnsupportedFeature, match=next(iter(setting))):
        cut_schedule(schedule, Cut(2, 4), config, image_tokens=1024)
