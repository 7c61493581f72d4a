"""Calibration on a stand-in with a clock of its own, and on a real tiny model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from pipelines.catalog import models
from pipelines.contracts import (
    Conditioning,
    EncodedPicture,
    LatentJob,
    SamplingParams,
    TokenGroup,
)
from pipelines.engine.costs.calibrate import REPEATS, Point, Shape, choose_shapes, measure
from pipelines.families import family_of
from pipelines.stages.denoiser import DenoiserStage

SMALL, LARGE = (Shape(64, 64, 1),), (Shape(64, 64, 1), Shape(128, 64, 2))


@dataclass
class SlowStage:
    """Each token takes a millisecond of a clock that only ticks move; the first tick takes ten."""

    now: float = 0.0
    ticks: list[tuple[int, ...]] = field(default_factory=list)

    def random_conditioning(self, text_tokens: int) -> Conditioning:
        return Conditioning(
            tensors={}, groups=(TokenGroup("text", text_tokens),), num_tokens=text_tokens
        )

    def segments(
        self, job: LatentJob, positive: Conditioning, negative: Conditioning | None
    ) -> tuple[int, ...]:
        return (job.sampling.height * job.sampling.width // 256 + positive.sequence_length,)

    def needed(self, sampling: SamplingParams) -> tuple[SamplingParams, list[EncodedPicture]]:
        return sampling, []

    def admit(
        self,
        job: LatentJob,
        positive: Conditioning,
        negative: Conditioning | None,
        start: None = None,
        pictures: Sequence[EncodedPicture] = (),
    ) -> int:
        return self.segments(job, positive, negative)[0]

    def tick(self, trajectories: Sequence[int]) -> None:
        self.ticks.append(tuple(trajectories))
        is_first = self.ticks.count(tuple(trajectories)) == 1
        self.now += 1e-3 * sum(trajectories) * (10 if is_first else 1)

    def clock(self) -> float:
        return self.now


def run(stage: SlowStage, budget_s: float) -> list[Point]:
    return measure(stage, [LARGE, SMALL], text_tokens=4, budget_s=budget_s, clock=stage.clock)


def test_points_are_medians_without_the_first_tick_smallest_first() -> None:
    stage = SlowStage()
    points = run(stage, 100.0)
    assert [point.lengths for point in points] == [(20,), (20, 36, 36)]
    assert [point.seconds for point in points] == pytest.approx([0.020, 0.092])
    assert stage.ticks == [(20,)] * (1 + REPEATS) + [(20, 36, 36)] * (1 + REPEATS)


@pytest.mark.parametrize(
    ("budget_s", "points", "ticks"),
    [
        (0.0, 1, 2),  # no time at all: one tick that is not counted, one that is
        (0.225, 1, 3),  # room for a second repeat, which begins just before the end
        (0.27, 1, 5),  # the large one begins and is not timed
        (1.3, 1, 7),  # the large one is timed twice, which does not count
        (9.0, 2, 8),
    ],
)
def test_it_ends_when_its_time_is_spent_but_never_without_a_point(
    budget_s: float, points: int, ticks: int
) -> None:
    stage = SlowStage()
    assert len(run(stage, budget_s)) == points
    assert len(stage.ticks) == ticks


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(ValueError, match="mixes"):
        measure(SlowStage(), [], text_tokens=4, budget_s=1.0)


@pytest.mark.parametrize("name", list(models()))
def test_the_chosen_shapes_tell_the_terms_apart(name: str) -> None:
    spec = models()[name]
    mixes = choose_shapes(spec)
    family = family_of(spec)
    lengths = [
        [
            family.image_tokens(s.height, s.width) + family.text_tokens(spec)
            for s in mix
            for _ in range(s.images)
        ]
        for mix in mixes
    ]
    rows = np.array([[1.0, sum(ls), sum(x * x for x in ls), len(ls)] for ls in lengths])
    assert np.linalg.cond(rows / np.linalg.norm(rows, axis=0)) < 60
    sides = {shape.height for mix in mixes for shape in mix}
    assert min(sides) == 64
    assert max(spec.height, spec.width) in sides
    assert spec.max_side >= max(sides) > spec.height
    assert any(len(mix) > 1 for mix in mixes)


def test_a_real_stage_can_be_measured(dev_like: Path) -> None:
    stage = DenoiserStage.load(str(dev_like))
    points = measure(stage, [SMALL, LARGE], text_tokens=8, budget_s=60.0)
    assert [point.lengths for point in points] == [(24,), (24, 40, 40)]
    assert all(point.seconds > 0 for point in points)
