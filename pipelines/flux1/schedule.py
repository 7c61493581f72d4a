"""The schedule that `diffusers.FluxPipeline` would use, its skipped steps and its cuts.

Casts happen in the pipeline's order, or bit equality is lost. The scheduler's own arithmetic is in
`pipelines.flux1.noise_levels`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pipelines.cuts import Cut
from pipelines.errors import UnsupportedFeature
from pipelines.flux1.noise_levels import DEPENDENT, check_scheduler, noise_levels, sigma_range
from pipelines.sampling import Schedule
from pipelines.skipping import evaluated_steps, forecasts


def make_schedule(
    config: dict[str, Any],
    *,
    num_steps: int,
    image_tokens: int,
    device: torch.device,
    skips_steps: bool = False,
) -> Schedule:
    """The schedule that `FluxPipeline` would use, from a scheduler's configuration.

    With `skips_steps`, only those of its levels where `pipelines.skipping` has a forward. Raises
    CheckpointError for a stochastic sampler, whose result would depend on more than the seed of
    the noise.
    """
    check_scheduler(config)
    if config.get("use_flow_sigmas"):
        ends = sigma_range(config)
        unshifted = given = np.linspace(ends.greatest, ends.least, num_steps)
    else:
        unshifted = np.linspace(1.0, 1 / num_steps, num_steps)
        given = unshifted.astype(np.float32)
    mu = _shift(config, image_tokens)
    timesteps, sigmas = noise_levels(config, given, mu=mu, device=device)
    if not skips_steps:
        return Schedule(timesteps=timesteps, sigmas=sigmas, unshifted=unshifted)
    steps = list(evaluated_steps(num_steps))
    return Schedule(
        timesteps=timesteps[steps],
        sigmas=sigmas[[*steps, num_steps]],
        unshifted=unshifted[steps],
        forecasts=forecasts(sigmas.tolist()),
    )


def check_can_cut(config: dict[str, Any], param: str = "min_steps") -> None:
    """Raises UnsupportedFeature when schedules of this configuration cannot be cut, as the request
    field `param` asks."""
    for name in DEPENDENT:
        if config.get(name):
            raise UnsupportedFeature(
                f"{param}: a schedule with {name} cannot be cut on its way; leave {param} out",
                param=param,
            )


def cut_schedule(
    schedule: Schedule, cut: Cut, config: dict[str, Any], *, image_tokens: int
) -> Schedule:
    """`schedule` with what is left after `cut.step` forwards laid out anew, to `cut.num_steps`.

    From the unshifted level s where it stands, the k forwards that are left are at
    linspace(s, s / k, k), shifted as before: for s = 1 the schedule of a request of k steps. The
    current level stays as it is, to the bit. Raises ValueError unless that makes it shorter,
    UnsupportedFeature as `check_can_cut`.
    """
    step, num_steps = cut
    if not 0 <= step < num_steps < schedule.num_steps:
        raise ValueError(f"{cut} does not shorten a schedule of {schedule.num_steps} steps")
    check_can_cut(config)
    device = schedule.sigmas.device
    if step == 0:
        return make_schedule(config, num_steps=num_steps, image_tokens=image_tokens, device=device)
    start, left = float(schedule.unshifted[step]), num_steps - step
    end = sigma_range(config).least if config.get("use_flow_sigmas") else start / left
    rest = np.linspace(start, end, left)
    mu = _shift(config, image_tokens)
    ahead = noise_levels(config, rest.astype(np.float32), mu=mu, device=device)
    return Schedule(
        timesteps=torch.cat([schedule.timesteps[: step + 1], ahead.timesteps[1:]]),
        sigmas=torch.cat([schedule.sigmas[: step + 1], ahead.sigmas[1:]]),
        unshifted=np.concatenate([schedule.unshifted[:step], rest]),
    )


def _shift(config: dict[str, Any], image_tokens: int) -> float:
    """The mu of dynamic shifting: more noise, longer, for more tokens.

    A straight line through two points, which `diffusers.pipelines.flux` has as `calculate_shift`.
    """
    first, last = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (high - low) / (last - first)
    return image_tokens * slope + (low - slope * first)
