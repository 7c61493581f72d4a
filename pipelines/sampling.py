"""Sampling as pure functions: guidance, extrapolation, Euler. Arrays in, arrays out, no state.

N forwards are those of one trajectory. The oracle are diffusers' pipelines: casts happen in their
order, or bit equality is lost. Which noise levels a model is sampled at is its own affair. Knows no
model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


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

    def entered_at(self, step: int) -> Schedule:
        """The schedule of an image that enters it at `step`. None may be skipped in it."""
        assert not self.forecasts
        return Schedule(
            timesteps=self.timesteps[step:],
            sigmas=self.sigmas[step:],
            unshifted=self.unshifted[step:],
        )

    def forecast(self, step: int) -> float:
        """How far ahead forward `step` forecasts; 0 also for a step that there is not."""
        return self.forecasts[step] if step < len(self.forecasts) else 0.0


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
