"""Ticks of a `DenoiserStage`: what the engine waits for, and how much of it is the host's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache, partial
from unittest import mock

import torch

from benchmarks.alternation import Step, Way
from benchmarks.gpu.bench import Bench, Case, Figures, Probe
from pipelines.catalog import find
from pipelines.contracts import LatentJob, SamplingParams
from pipelines.engine.costs.calibrate import choose_shapes, measure
from pipelines.engine.costs.surface import CostModel, Load, Observation, relative_errors
from pipelines.flux1.family import FAMILY as FLUX1
from pipelines.flux1.model import FluxModel
from pipelines.stages.denoiser import DenoiserStage
from pipelines.stages.trajectory import Trajectory

MODEL = "flux.1-dev"
SCHEDULER = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "shift": 3.0}
"""As in the published FLUX.1-dev."""


def cases(bench: Bench) -> Iterator[Case]:
    """The cost surface, ticks by size, and what is done between them."""
    stage = cache(lambda: DenoiserStage(FluxModel(bench.packed(), SCHEDULER)))
    plan = bench.plan
    yield Case(name="cost surface", probes=[Probe("fit", lambda: _surface(bench, stage()))])
    batches = [(plan.small,), (plan.side,), plan.mixed]
    yield Case(
        name="one tick; host ms: launched, not yet waited for",
        is_contest=False,
        ways=[
            Way(" + ".join(map(str, sides)), partial(_tick, bench, stage, sides))
            for sides in batches
        ],
    )
    yield Case(
        name="between ticks",
        is_contest=False,
        ways=[
            Way("admission", partial(_admission, bench, stage)),
            Way("layout not seen", partial(_layout, bench, stage)),
            Way("cut", partial(_cut, bench, stage)),
            Way("checkpoint", partial(_checkpoint, bench, stage)),
        ],
    )


def _surface(bench: Bench, stage: DenoiserStage) -> Figures:
    spec, plan = find(MODEL), bench.plan
    spec = replace(spec, height=plan.side, width=plan.side, max_side=2 * plan.side)
    text = plan.shape.text_tokens
    budget = min(plan.calibration_s, max(1.0, bench.clock.left()))
    points = measure(stage, choose_shapes(spec), text_tokens=text, budget_s=budget)
    ticks = [Observation(Load.of(lengths), seconds) for lengths, seconds in points]
    surface = CostModel(ticks).surface
    own = FLUX1.image_tokens(plan.side, plan.side) + text
    return {
        "ticks": float(len(ticks)),
        "base ms": 1e3 * surface.base,
        "us a token": 1e6 * surface.per_token,
        "knee ms": 1e3 * surface.knee,
        "knee tokens": float(surface.knee_tokens(own)),
        "worst error": max(relative_errors(surface, ticks)),
    }


def _job(bench: Bench, side: int, index: int = 0) -> LatentJob:
    return LatentJob(
        work_id=f"{side}-{index}",
        group=f"{side}-{index}",
        sampling=SamplingParams(
            height=side,
            width=side,
            num_inference_steps=bench.plan.shape.num_steps,
            guidance_scale=3.5,
            seed=index,
        ),
    )


def _admitted(bench: Bench, stage: DenoiserStage, sides: Sequence[int]) -> list[Trajectory]:
    text = stage.random_conditioning(bench.plan.shape.text_tokens)
    return [stage.admit(_job(bench, side, i), text, None) for i, side in enumerate(sides)]


def _tick(bench: Bench, stage: Callable[[], DenoiserStage], sides: Sequence[int]) -> Step:
    works = _admitted(bench, stage(), sides)

    def step() -> torch.Tensor:
        for work in works:
            work.step = 0
        with _not_waiting(bench):
            stage().tick(works)
        return works[0].latents.mean()

    return step


def _not_waiting(bench: Bench) -> AbstractContextManager[object]:
    """A tick ends with a wait for the device; who times it waits as well, and apart."""
    if bench.device.type != "cuda":
        return nullcontext()
    return mock.patch.object(torch.cuda, "synchronize", return_value=None)


def _admission(bench: Bench, stage: Callable[[], DenoiserStage]) -> Step:
    """Nothing is shared with the one before: its modulation has gone with it."""
    text = stage().random_conditioning(bench.plan.shape.text_tokens)
    index = 0

    def step() -> torch.Tensor:
        nonlocal index
        index += 1
        work = stage().admit(_job(bench, bench.plan.side, index), text, None)
        return work.segments[0].vec.mean()

    return step


def _layout(bench: Bench, stage: Callable[[], DenoiserStage]) -> Step:
    works = _admitted(bench, stage(), bench.plan.mixed)
    shapes = [segment.shape for work in works for segment in work.segments]

    def step() -> torch.Tensor:
        owner = bench.packed().layout(shapes).places.owner
        assert owner is not None
        return owner.float().mean()

    return step


def _cut(bench: Bench, stage: Callable[[], DenoiserStage]) -> Step:
    (work,) = _admitted(bench, stage(), [bench.plan.side])
    whole = (work.schedule, work.cuts, work.segments)

    def step() -> torch.Tensor:
        work.schedule, work.cuts, work.segments = whole
        stage().cut(work, work.num_steps - 1)
        return work.segments[0].vec.mean()

    return step


def _checkpoint(bench: Bench, stage: Callable[[], DenoiserStage]) -> Step:
    (work,) = _admitted(bench, stage(), [bench.plan.side])
    return lambda: stage().checkpoint(work).latents
