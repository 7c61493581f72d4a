"""From a loaded stage and its options to a running engine: measured, bounded, started.

Runs in the replica, so it may import torch; knows no Ray.
"""

from __future__ import annotations

import logging
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from deployments.options.stages import GPU_MEMORY_SHARE, DenoiserOptions
from pipelines.catalog import ModelSpec
from pipelines.engine.costs.cache import CostCache
from pipelines.engine.costs.surface import CostModel, Load, Observation, relative_errors
from pipelines.engine.engine import Engine
from pipelines.engine.observe.stats import OnTick
from pipelines.engine.scheduling.scheduler import Scheduler
from pipelines.families import family_of

if TYPE_CHECKING:
    from pipelines.previews.previewer import Previewer
    from pipelines.stages.denoiser import DenoiserStage

logger = logging.getLogger("ray.serve")

_CPU_MEMORY_MIB = 2048
_ENOUGH_TICKS = 6
"""Measured in the time given, to be kept: fewer say little, and the next start may be calmer."""
_MOST_OFF = 0.6
"""How far a fit that is kept may be off its worst tick, as a share. On a busy machine, as seen, one
off by 0.8 said that packing saves nothing; an engine that then packs nothing learns no better."""


def build_engine(
    stage: DenoiserStage,
    spec: ModelSpec,
    options: DenoiserOptions,
    *,
    on_tick: OnTick | None = None,
    previewer: Previewer | None = None,
) -> Engine:
    """The engine over `stage`, not yet started; `on_tick` and `previewer` are as in `Engine`."""
    cost = CostModel(_calibration(stage, spec, options))
    bounds = _bounds(stage, options)
    surface = cost.surface
    logger.info(
        "a tick costs %.1f ms + %.2f us a token, knee at %.1f ms (%d tokens of %s);"
        " up to %d tokens a tick and %d MiB of trajectories, policy %s",
        1e3 * surface.base,
        1e6 * surface.per_token,
        1e3 * surface.knee,
        surface.knee_tokens(tokens_of(spec)),
        spec.name,
        bounds.tokens,
        bounds.trajectory_bytes // 2**20,
        options.policy,
    )
    scheduler = Scheduler(
        cost=surface,
        policy=options.policy,
        max_tokens=bounds.tokens,
        max_works=options.max_works,
        max_bytes=bounds.trajectory_bytes,
    )
    return Engine(
        stage,
        scheduler,
        cost=cost,
        checkpoint_every=options.checkpoint_every,
        tick_every=options.trace_ticks_every,
        on_tick=on_tick,
        previewer=previewer,
    )


def _calibration(
    stage: DenoiserStage, spec: ModelSpec, options: DenoiserOptions
) -> tuple[Observation, ...]:
    """Measured ticks: kept from an earlier start, or measured now."""
    import torch

    from pipelines.engine.costs.calibrate import choose_shapes, measure

    if options.resolved_device == "cuda":
        device = f"{torch.cuda.get_device_name()} x {min(1.0, options.num_gpus):g}"
    else:
        # Python cannot tell processors apart, so the measurements are this machine's own.
        device = f"{platform.node()} {torch.backends.cpu.get_cpu_capability()} {os.cpu_count()}"
    cache = CostCache(
        options.cost_cache or Path.home() / ".cache/sluice/cost",
        {
            "source": spec.source,
            "parameters": str(spec.parameters),
            "device": device,
            "threads": str(options.resolved_threads),
            "dtype": options.dtype,
            "attention": options.attention,
            "compile": str(options.compile),
            "parallel": f"{options.parallel.tensor} x {options.parallel.ulysses}",
            "torch": torch.__version__,
        },
    )
    ticks = cache.load()
    if ticks:
        return ticks
    points = measure(
        stage,
        choose_shapes(spec),
        text_tokens=family_of(spec).text_tokens(spec),
        family=spec.family,
        budget_s=options.calibration_s,
    )
    ticks = tuple(Observation(Load.of(lengths), seconds) for lengths, seconds in points)
    errors = relative_errors(CostModel(ticks).surface, ticks)
    logger.info(
        "measured %d ticks; the fit is off by at most %.0f %%", len(ticks), 100 * max(errors)
    )
    if len(ticks) >= _ENOUGH_TICKS and max(errors) <= _MOST_OFF:
        cache.save(ticks)
    return ticks


class _Bounds(NamedTuple):
    tokens: int
    trajectory_bytes: int


def _bounds(stage: DenoiserStage, options: DenoiserOptions) -> _Bounds:
    """Half of the memory is for the activations of a tick, half for the trajectories kept."""
    half = _memory_bytes(options) // 2
    tokens = _most_tokens(stage, half)
    if options.max_tokens_per_tick is not None:
        tokens = min(tokens, options.max_tokens_per_tick)
    return _Bounds(tokens, half)


def _memory_bytes(options: DenoiserOptions) -> int:
    if options.memory_mib is not None:
        return options.memory_mib * 2**20
    if options.resolved_device == "cpu":
        return _CPU_MEMORY_MIB * 2**20
    import torch

    free, _ = torch.cuda.mem_get_info()
    return int(free * GPU_MEMORY_SHARE * min(1.0, options.num_gpus))


def _most_tokens(stage: DenoiserStage, num_bytes: int) -> int:
    """The most tokens whose tick fits into `num_bytes`; at least one."""
    low, high = 1, 2**22
    while low < high:
        middle = (low + high + 1) // 2
        if stage.tick_bytes(middle) <= num_bytes:
            low = middle
        else:
            high = middle - 1
    return low


def tokens_of(spec: ModelSpec) -> int:
    """Tokens of one image of the model's own size."""
    family = family_of(spec)
    return family.image_tokens(spec.height, spec.width) + family.text_tokens(spec)
