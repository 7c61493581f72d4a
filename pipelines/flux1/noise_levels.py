"""The noise levels of a schedule, as diffusers' `FlowMatchEulerDiscreteScheduler` lays them out.

Its arithmetic, to the bit, for all settings that FLUX.1 was published with. The others are left to
diffusers itself, which is imported only then: it takes seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from pipelines.errors import CheckpointError

DEPENDENT = (
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "shift_terminal",
    "invert_sigmas",
)
"""Settings under which a noise level depends on the whole schedule, or runs the other way."""

_SHIFTS = ("exponential", "linear")


class NoiseLevels(NamedTuple):
    """`timesteps` (N,) and `sigmas` (N + 1,), float32 on the device asked for, the last sigma 0."""

    timesteps: torch.Tensor
    sigmas: torch.Tensor


class SigmaRange(NamedTuple):
    """The least and the greatest sigma that the model was trained with."""

    least: float
    greatest: float


def check_scheduler(config: Mapping[str, Any]) -> None:
    """Raises CheckpointError for settings that no schedule can be made of."""
    if (shift := config.get("time_shift_type", "exponential")) not in _SHIFTS:
        raise CheckpointError(
            f"scheduler: time_shift_type is {shift!r}, not one of {', '.join(_SHIFTS)}"
        )
    if config.get("stochastic_sampling"):  # a result would not depend on the noise's seed alone
        raise CheckpointError("scheduler: stochastic_sampling is not supported; set it to false")
    if _is_dependent(config):
        _of_diffusers(config)


def sigma_range(config: Mapping[str, Any]) -> SigmaRange:
    """The ends of the schedule that the model was trained with."""
    steps = config.get("num_train_timesteps", 1000)
    ends = torch.tensor([1.0, float(steps)]) / steps
    if not config.get("use_dynamic_shifting"):
        ends = _shifted(ends, config.get("shift", 1.0))
    return SigmaRange(*ends.tolist())


def noise_levels(
    config: Mapping[str, Any], unshifted: np.ndarray, *, mu: float, device: torch.device
) -> NoiseLevels:
    """The levels of a schedule whose sigmas (N,) are `unshifted`; `mu` is for dynamic shifting.

    Float64 is shifted in float64, as where diffusers chooses the sigmas by itself, and float32 in
    float32, as where it is given them. Raises CheckpointError.
    """
    if _is_dependent(config):
        scheduler = _of_diffusers(config)
        own = unshifted.dtype == np.float64
        scheduler.set_timesteps(
            len(unshifted), device=device, sigmas=None if own else unshifted, mu=mu
        )
        return NoiseLevels(scheduler.timesteps, scheduler.sigmas)
    if not config.get("use_dynamic_shifting"):
        shifted = _shifted(unshifted, config.get("shift", 1.0))
    else:
        is_linear = config.get("time_shift_type") == "linear"
        try:
            strength = mu if is_linear else math.exp(mu)
        except OverflowError:
            strength = math.inf
        with np.errstate(over="ignore", invalid="ignore"):
            shifted = strength / (strength + (1 / unshifted - 1))
        if not np.isfinite(shifted).all():
            raise CheckpointError(
                f"scheduler: max_shift and max_image_seq_len shift an image of this size by"
                f" {mu:.4g}, which leaves no noise levels"
            )
    sigmas = torch.from_numpy(shifted).to(dtype=torch.float32, device=device)
    timesteps = sigmas * config.get("num_train_timesteps", 1000)
    return NoiseLevels(timesteps, torch.cat([sigmas, torch.zeros(1, device=device)]))


def _shifted(sigmas: Any, shift: float) -> Any:
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def _is_dependent(config: Mapping[str, Any]) -> bool:
    return any(config.get(name) for name in DEPENDENT)


def _of_diffusers(config: Mapping[str, Any]) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    try:
        return FlowMatchEulerDiscreteScheduler.from_config(dict(config))
    except (ValueError, ImportError) as error:
        raise CheckpointError(f"scheduler: cannot be made: {error}") from error
