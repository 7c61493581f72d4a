"""Sampling as pure functions: schedule, noise, packing, Euler. Arrays in, arrays out, no state.

Shapes:  S image tokens = (height / 16) * (width / 16)      D packed channels (64 for FLUX.1)
         N forwards                                         L text tokens

The oracle is `diffusers.FluxPipeline`: casts happen in its order, or bit equality is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipelines.catalog import SIZE_MULTIPLE
from pipelines.cuts import Cut
from pipelines.errors import UnsupportedFeature
from pipelines.flux1.noise_levels import DEPENDENT, check_scheduler, noise_levels, sigma_range
from pipelines.skipping import evaluated_steps, forecasts


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The noise levels of one trajectory.

    `timesteps` (N,) and `sigmas` (N + 1,), float32, the last sigma is 0. Forward i predicts the
    velocity at `timesteps[i]`, which then leads from `sigmas[i]` to `sigmas[i + 1]`. `unshifted`
    (N,), float64, are the sigmas before the scheduler shifted them. Where steps are skipped,
    `forecasts` has a number for each forward (`pipelines.skipping`), 0 for none.
    """

    timesteps: torch.Tensor
    sigmas: torch.Tensor
    unshifted: np.ndarray
    forecasts: tuple[float, ...] = ()

    @property
    def num_steps(self) -> int:
        return len(self.timesteps)

    def forecast(self, step: int) -> float:
        """How far ahead forward `step` forecasts; 0 also for a step that there is not."""
        return self.forecasts[step] if step < len(self.forecasts) else 0.0


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


def draw_noise(
    seed: int,
    *,
    height: int,
    width: int,
    latent_channels: int,
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The packed starting noise (S, D) of one image.

    Drawn on the CPU whatever the device, so that a seed means the same image everywhere.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    rows, columns = 2 * (height // SIZE_MULTIPLE), 2 * (width // SIZE_MULTIPLE)
    shape = (1, latent_channels, rows, columns)
    return pack(torch.randn(shape, generator=generator, dtype=dtype).to(device))[0]


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Fold 2x2 patches into channels: (B, C, 2h, 2w) -> (B, h * w, 4C)."""
    batch, channels, rows, columns = latents.shape
    patches = latents.view(batch, channels, rows // 2, 2, columns // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * 4)


def unpack(packed: torch.Tensor, *, height: int, width: int) -> torch.Tensor:
    """Undo `pack`: (B, S, 4C) -> (B, C, height / 8, width / 8)."""
    batch, _, depth = packed.shape
    rows, columns = height // SIZE_MULTIPLE, width // SIZE_MULTIPLE
    patches = packed.view(batch, rows, columns, depth // 4, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(batch, depth // 4, rows * 2, columns * 2)


def position_ids(
    text_tokens: int, *, height: int, width: int, device: torch.device, dtype: torch.dtype
) -> torch.Tensor:
    """RoPE positions (L + S, 3): zeros for the text, (0, row, column) for the image.

    They pass through `dtype` because the pipeline's do: in bfloat16 that rounds above 256.
    """
    rows, columns = height // SIZE_MULTIPLE, width // SIZE_MULTIPLE
    image = torch.zeros(rows, columns, 3)
    image[..., 1] = torch.arange(rows)[:, None]
    image[..., 2] = torch.arange(columns)[None, :]
    ids = torch.cat([torch.zeros(text_tokens, 3), image.reshape(-1, 3)])
    return ids.to(device=device, dtype=dtype)


def guide(
    velocity: torch.Tensor, negative_velocity: torch.Tensor, true_cfg_scale: float
) -> torch.Tensor:
    """Classifier-free guidance (Ho and Salimans 2022, in the scale convention of diffusers)."""
    return negative_velocity + true_cfg_scale * (velocity - negative_velocity)


def extrapolate(velocity: torch.Tensor, last: torch.Tensor, share: float) -> torch.Tensor:
    """v + share (v - last), summed in float32, in the velocity's dtype."""
    change = velocity.to(torch.float32) - last.to(torch.float32)
    return (velocity.to(torch.float32) + share * change).to(velocity.dtype)


def euler_step(latents: torch.Tensor, velocity: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """One Euler step of the flow ODE, x + (sigma' - sigma) v, for `sigmas` = (sigma, sigma').

    The sum is in float32 and cast back to the velocity's dtype. The step is a 0-d tensor on
    purpose: it must not promote the product, as it does not in the diffusers scheduler.
    """
    step = sigmas[1] - sigmas[0]
    return (latents.to(torch.float32) + step * velocity).to(velocity.dtype)
