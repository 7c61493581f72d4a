"""Which steps of a schedule are taken with a forward of their own: the rest may be skipped, or come
before the step at which an image enters (`first_step`).

A skipped step needs a velocity all the same, in the tick of the forward before it. With the one
predicted last it would only be a part of a longer Euler step; so the velocity is forecast, linearly
in sigma from the last two forwards, as multistep solvers (Adams-Bashforth) and TaylorSeer (arXiv
2503.06923) do. Half of the slope was measured to serve both few steps and many (the table
is in `pipelines/README.md`), and none for the first forwards, between which the velocity turns.

What is saved is known before it starts, from the number of steps alone: no torch and no model here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.contracts import SamplingParams

FORECAST_SHARE = 0.5
"""How much of the slope between the last two velocities a forecast trusts."""

FORECAST_FROM = 3
"""The first forward that is forecast from; those before it are only reused."""


def evaluated_steps(num_steps: int) -> tuple[int, ...]:
    """The steps of `num_steps` (counted from 0) that have a forward, in order.

    The first two and the last always, between them every other one: 6 of 10, and 15 of 28.
    """
    return tuple(sorted({0, *range(1, num_steps, 2), num_steps - 1}))


def num_forwards(num_steps: int, *, skips_steps: bool) -> int:
    """How many forwards, and so ticks, a schedule of `num_steps` takes."""
    return len(evaluated_steps(num_steps)) if skips_steps else num_steps


def first_step(num_steps: int, strength: float) -> int:
    """The step at which an image of this `strength` in 0..1 enters a schedule of `num_steps`.

    In floats, as diffusers' `get_timesteps` has it: 0.56 of 25 steps leaves 15 of them, not 14.
    `num_steps` itself if nothing is left to do.
    """
    return int(max(num_steps - min(num_steps * strength, num_steps), 0))


def forwards_of(sampling: SamplingParams) -> int:
    """The forwards of one image, unless its schedule is cut on the way."""
    if sampling.planned_cuts:
        return sampling.planned_cuts[-1].num_steps
    steps = sampling.num_inference_steps
    if sampling.strength < 1.0:
        return steps - first_step(steps, sampling.strength)
    return num_forwards(steps, skips_steps=sampling.skips_steps)


def forecasts(sigmas: Sequence[float]) -> tuple[float, ...]:
    """For each forward, the share r of its change that its velocity is moved on by.

    `sigmas` are all N + 1 levels of the full schedule. From the level b of a forward to the level c
    of the next, Euler steps with the forecast v + w (v - u) at each level between add up to one
    step with v + r (v - u): u is the velocity of the forward before, at level a, and w is
    (sigma - b) / (b - a).
    """
    starts = (*evaluated_steps(len(sigmas) - 1), len(sigmas) - 1)
    shares: list[float] = []
    for index, (here, after) in enumerate(pairwise(starts)):
        if index < FORECAST_FROM or after - here == 1:
            shares.append(0.0)
            continue
        levels = sigmas[here : after + 1]
        moved = sum((low - high) * (high - levels[0]) for high, low in pairwise(levels))
        run = (levels[-1] - levels[0]) * (levels[0] - sigmas[starts[index - 1]])
        shares.append(FORECAST_SHARE * moved / run)
    return tuple(shares)
