"""The live side: the real engine over a real, tiny model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.engine_model import calibrate, engine_times
from benchmarks.live import TimedStage, run_live
from benchmarks.matching import Matcher, engine_model
from benchmarks.offered import OfferedLoad
from benchmarks.simulation import Overheads
from benchmarks.trace import Arrival, drawn_trace
from pipelines.catalog import models
from pipelines.contracts import Conditioning, LatentJob, SamplingParams
from pipelines.engine.costs.surface import CostSurface, Load, Observation
from pipelines.engine.engine import Engine
from pipelines.stages.denoiser import DenoiserStage

SPEC = replace(next(iter(models().values())), num_inference_steps=2)
SURFACE = CostSurface(base=0.002, per_token=2e-5)


@pytest.fixture(scope="module")
def stage(dev_like: Path) -> DenoiserStage:
    return DenoiserStage.load(str(dev_like))


def arrival(at_s: float, n: int) -> Arrival:
    return Arrival(
        at_s=at_s,
        tenant="t",
        n=n,
        steps=3,
        width=64,
        height=64,
        prompt="a red circle",
        seed=5,
        deadline_s=60.0,
        solo_s=1.0,
        is_tight=False,
    )


def test_a_timed_stage_changes_nothing_and_sees_every_call(stage: DenoiserStage) -> None:
    text = stage.random_conditioning(8)
    job = LatentJob(
        work_id="w",
        group="g",
        sampling=SamplingParams(
            height=64, width=64, num_inference_steps=3, guidance_scale=3.5, seed=1
        ),
    )
    timed = TimedStage(stage)
    results: list[torch.Tensor] = []
    for each in (stage, timed):
        trajectory = each.admit(job, text, None)
        for _ in range(3):
            each.tick([trajectory])
        each.checkpoint(trajectory)
        results.append(each.finish(trajectory).packed)
    assert torch.equal(results[0], results[1])
    names = [call.name for call in timed.calls]
    assert names == ["admit", "tick", "tick", "tick", "checkpoint", "finish"]
    assert {call.load for call in timed.calls if call.name == "tick"} == {Load.of([16 + 8])}
    assert all(call.began <= call.ended for call in timed.calls)


def test_a_live_run_serves_every_image(stage: DenoiserStage) -> None:
    timed = TimedStage(stage)
    engine = Engine(timed, engine_model(SURFACE, Overheads()).scheduler("edf"))
    conditionings = {"a red circle": stage.random_conditioning(SPEC.max_sequence_length)}
    engine.start()
    try:
        latencies = run_live(engine, [arrival(0.0, 2), arrival(0.02, 1)], conditionings, SPEC)
    finally:
        engine.stop()
    assert len(latencies) == 2
    assert all(latency > 0 for latency in latencies)
    assert [call.name for call in timed.calls].count("finish") == 3
    steps = sum(call.load.segments for call in timed.calls if call.name == "tick")
    assert steps == 3 * 3
    assert engine_times(timed.calls, SURFACE).stretch > 0


def test_the_same_arrivals_are_run_live_and_simulated(stage: DenoiserStage) -> None:
    loads = [Load.of([length] * count) for length in (32, 80, 160) for count in (1, 2, 4)]
    calibration = calibrate([Observation(load, SURFACE.seconds(load)) for load in loads])
    offered = OfferedLoad(drawn_trace(), engine_model(SURFACE, Overheads()), SPEC)

    def encode(arrivals: Sequence[Arrival]) -> dict[str, Conditioning]:
        text = stage.random_conditioning(SPEC.max_sequence_length)
        return {item.prompt: text for item in arrivals}

    matcher = Matcher(stage, SPEC, calibration, encode, "edf")
    compared = offered.arrivals(0.5, seconds=0.5, seed=0)
    beside = offered.arrivals(0.5, seconds=0.3, seed=1)
    matcher.learn(beside)
    match = matcher.match(compared, offered.view(compared), before=beside, after=beside)
    assert match.live.requests == match.simulated.requests == len(compared)
    assert match.times.stretch > 0
    assert match.times.overheads.per_tick > 0
    assert match.times.overheads.per_admission > 0
    live, simulated = match.live.summary, match.simulated.summary
    assert match.errors["mean_s"] == abs(simulated.mean_s / live.mean_s - 1)
    steady = match.steady.summary
    assert match.errors_steady["mean_s"] == abs(steady.mean_s / live.mean_s - 1)
    assert all(factor > 0 for factor in match.pace.factors)
    assert matcher.model.cost.base > 0
