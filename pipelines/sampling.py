"""Sampling as pure functions: schedule, noise, packing, Euler. Arrays in, arrays out, no state.

Shapes:  S image tokens = (height / 16) * (width / 16)      D packed channels (64 for FLUX.1)
         N denoising steps                                  L text tokens

The oracle is `diffusers.FluxPipeline`: casts happen in its order, or bit equality is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.utils.torch_utils import randn_tensor

from pipelines.catalog import SIZE_MULTIPLE
from pipelines.errors import CheckpointError


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The noise levels of one trajectory.

    `timesteps` (N,) and `sigmas` (N + 1,), float32, the last sigma is 0. Step i goes from
    `sigmas[i]` to `sigmas[i + 1]` with the velocity predicted at `timesteps[i]`.
    """

    timesteps: torch.Tensor
    sigmas: torch.Tensor

    @property
    def num_steps(self) -> int:
        return len(self.timesteps)


def make_schedule(
    config: dict[str, Any], *, num_steps: int, image_tokens: int, device: torch.device
) -> Schedule:
    """The schedule that `FluxPipeline` would use, from a scheduler's configuration.

    A fresh diffusers scheduler does the arithmetic and is thrown away: its state (the step index)
    must never be shared between requests. Raises CheckpointError for a stochastic sampler, whose
    result would depend on more than the seed of the noise.
    """
    if config.get("stochastic_sampling"):
        raise CheckpointError("scheduler: stochastic_sampling is not supported; set it to false")
    scheduler: Any = FlowMatchEulerDiscreteScheduler.from_config(config)
    sigmas = None if config.get("use_flow_sigmas") else np.linspace(1.0, 1 / num_steps, num_steps)
    mu = calculate_shift(
        image_tokens,
        config.get("base_image_seq_len", 256),
        config.get("max_image_seq_len", 4096),
        config.get("base_shift", 0.5),
        config.get("max_shift", 1.15),
    )
    scheduler.set_timesteps(num_steps, device=device, sigmas=sigmas, mu=mu)
    return Schedule(timesteps=scheduler.timesteps, sigmas=scheduler.sigmas)


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
    return pack(randn_tensor(shape, generator=generator, device=device, dtype=dtype))[0]


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


def euler_step(latents: torch.Tensor, velocity: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """One Euler step of the flow ODE, x + (sigma' - sigma) v, for `sigmas` = (sigma, sigma').

    The sum is in float32 and cast back to the velocity's dtype. The step is a 0-d tensor on
    purpose: it must not promote the product, as it does not in the diffusers scheduler.
    """
    step = sigmas[1] - sigmas[0]
    return (latents.to(torch.float32) + step * velocity).to(velocity.dtype)
