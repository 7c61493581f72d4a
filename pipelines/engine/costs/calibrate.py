"""Measures what ticks cost, on made-up works and within a given time.

Asks of the stage what the engine does and no more, and brings the clock along, so it runs on a
stand-in as well. What the points mean is the cost model's affair.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, TypeVar

from pipelines.catalog import DEFAULT_FAMILY, ModelSpec
from pipelines.contracts import Conditioning, EncodedPicture, LatentJob, SamplingParams
from pipelines.families import family_of

REPEATS = 3
"""Timed ticks of each mix, after one that is not: it allocates, and may compile."""

_SMALLEST = 64
_LARGEST_AT_LEAST = 256
_COUNTS = (1, 2, 4, 8, 16)
_MAX_IMAGE_TOKENS = 8192
"""Past that a tick is long, and longer ones teach nothing new."""

Trajectory = TypeVar("Trajectory")


class Shape(NamedTuple):
    """`images` images of `height` x `width` pixels."""

    height: int
    width: int
    images: int

    @property
    def pixels(self) -> int:
        """Pixels of all its images together."""
        return self.images * self.height * self.width


class Point(NamedTuple):
    """A tick over segments of these `lengths` in tokens took `seconds`."""

    lengths: tuple[int, ...]
    seconds: float


class Measurable(Protocol[Trajectory]):
    """What of a stage is needed to time its ticks; a tick returns when its device is done."""

    def random_conditioning(self, text_tokens: int) -> Conditioning: ...

    def segments(
        self, job: LatentJob, positive: Conditioning, negative: Conditioning | None
    ) -> tuple[int, ...]: ...

    def needed(self, sampling: SamplingParams) -> tuple[SamplingParams, list[EncodedPicture]]: ...

    def admit(
        self,
        job: LatentJob,
        positive: Conditioning,
        negative: Conditioning | None,
        start: None = None,
        pictures: Sequence[EncodedPicture] = (),
    ) -> Trajectory: ...

    def tick(self, trajectories: Sequence[Trajectory]) -> None: ...


Mix = tuple[Shape, ...]
"""What is stepped in one tick."""


def choose_shapes(spec: ModelSpec) -> list[Mix]:
    """Ticks that tell the terms of a cost surface apart, for one model.

    Sides from 64 pixels to a quarter above the model's own size (256 at least, or all lengths would
    be nearly alike), with 1 to 16 images: the same number of tokens comes once in many short
    segments and once in few long ones, so sum L, sum L^2 and the number of segments differ. And
    mixes of two sizes and of all, as packing unequal segments costs more than equal ones.
    """
    own = max(spec.height, spec.width)
    largest = min(spec.max_side, max(own * 5 // 4, _LARGEST_AT_LEAST))
    wanted = {_SMALLEST, own // 4, own // 2, own, largest // 2, largest}
    multiple = family_of(spec).size_multiple
    sides = sorted({side // multiple * multiple for side in wanted if side >= _SMALLEST})
    mixes: list[Mix] = [(Shape(side, side, count),) for side in sides for count in _COUNTS]
    mixes += [(Shape(low, low, 2), Shape(high, high, 1)) for low, high in pairwise(sides)]
    mixes.append(tuple(Shape(side, side, 1) for side in sides))
    most = _MAX_IMAGE_TOKENS * multiple**2
    return [mix for mix in mixes if _images(mix) == 1 or _pixels(mix) <= most]


def measure(
    stage: Measurable[Any],
    mixes: Sequence[Sequence[tuple[int, int, int]]],
    *,
    text_tokens: int,
    family: str = DEFAULT_FAMILY,
    budget_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Point]:
    """The median time of a tick of each of `mixes` of (height, width, images), smallest first.

    Before every tick it looks whether `budget_s` is spent, and ends there: a mix counts only if it
    was timed `REPEATS` times, but the first one counts with a single time. Raises ValueError
    without any mix.
    """
    if not mixes:
        raise ValueError("mixes: nothing to measure")
    deadline = clock() + budget_s
    text = stage.random_conditioning(text_tokens)
    points: list[Point] = []
    for mix in sorted((tuple(Shape(*shape) for shape in mix) for mix in mixes), key=_pixels):
        if points and clock() >= deadline:
            break
        jobs = _jobs(mix, family)
        works = [_admit(stage, job, text) for job in jobs]
        times = _times(stage, works, deadline, clock, needs_one=not points)
        if len(times) == REPEATS or not points:
            lengths = tuple(length for job in jobs for length in stage.segments(job, text, None))
            points.append(Point(lengths, statistics.median(times)))
    return points


def _admit(stage: Measurable[Trajectory], job: LatentJob, text: Conditioning) -> Trajectory:
    """A work of this size, with pictures where the stage's model draws nothing without."""
    sampling, pictures = stage.needed(job.sampling)
    return stage.admit(replace(job, sampling=sampling), text, None, None, pictures)


def _times(
    stage: Measurable[Any],
    works: Sequence[Any],
    deadline: float,
    clock: Callable[[], float],
    *,
    needs_one: bool,
) -> list[float]:
    """Seconds of up to `REPEATS` ticks after a first one; at least one of them if `needs_one`."""
    stage.tick(works)
    times: list[float] = []
    while len(times) < REPEATS:
        began = clock()
        if began >= deadline and (times or not needs_one):
            break
        stage.tick(works)
        times.append(clock() - began)
    return times


def _images(mix: Mix) -> int:
    return sum(shape.images for shape in mix)


def _pixels(mix: Mix) -> int:
    return sum(shape.pixels for shape in mix)


def _jobs(mix: Mix, family: str) -> list[LatentJob]:
    shapes = [shape for shape in mix for _ in range(shape.images)]
    return [
        LatentJob(
            work_id=f"calibration-{index}",
            group="calibration",
            sampling=SamplingParams(
                height=shape.height,
                width=shape.width,
                num_inference_steps=1 + REPEATS,
                guidance_scale=1.0,
                seed=index,
                family=family,
            ),
        )
        for index, shape in enumerate(shapes)
    ]
