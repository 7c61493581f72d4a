"""From measurements to the simulator's engine: the cost surface, and what stands beside it.

Three steps, none of which sees a run that the simulator is compared with:

1. Ticks of a few mixes are timed on the stage by itself. The surface is fitted on every second of
   them; the others say how far off it is.
2. The real engine serves arrivals of its own (another seed) and every call of its stage is timed.
3. From these calls come the mean seconds of an admission, a checkpoint and a finished image, the
   time between two calls per tick (planning, the loop, the caller's thread), and `stretch`: how
   much longer a tick takes inside the engine, where caches are colder and mixes change, than
   measured alone.

`pace_of` is for the compared run itself: how fast the machine happened to be, second by second.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from random import Random
from statistics import fmean, median
from typing import NamedTuple

from benchmarks.live import Call
from benchmarks.requests import MIXED_SIZES
from benchmarks.simulation import Overheads, Pace
from pipelines.catalog import ModelSpec
from pipelines.engine.costs.calibrate import Mix, Shape, choose_shapes, measure
from pipelines.engine.costs.surface import CostSurface, Load, Observation, fit, relative_errors
from pipelines.stages.denoiser import DenoiserStage

_ROUNDS = 3
_NUM_RANDOM_MIXES = 24
_MOST_IMAGES = 10
_ENOUGH_S = 600.0
_PACE_WINDOW_S = 1.0
"""Dozens of ticks, and short beside the waits of a queue."""


class FitError(NamedTuple):
    """Relative errors of the surface on the points that it was not fitted on."""

    median: float
    worst: float


class Calibration(NamedTuple):
    """The surface of half of the points, and its error on the other half."""

    fitted: tuple[Observation, ...]
    held_out: int
    surface: CostSurface
    error: FitError


class EngineTimes(NamedTuple):
    """What a run of the engine shows beside the surface; see the module."""

    overheads: Overheads
    stretch: float


def measure_points(stage: DenoiserStage, spec: ModelSpec, *, seed: int) -> list[Observation]:
    """Ticks by tokens, each the median of rounds that lie apart in time.

    What an engine measures at its start, and mixes as they come with the sizes of the arrivals.
    """
    mixes = [*choose_shapes(spec), *_random_mixes(Random(seed))]
    times: dict[tuple[int, ...], list[float]] = {}
    for _ in range(_ROUNDS):
        points = measure(stage, mixes, text_tokens=spec.max_sequence_length, budget_s=_ENOUGH_S)
        for point in points:
            times.setdefault(point.lengths, []).append(point.seconds)
    observations = [Observation(Load.of(key), median(each)) for key, each in times.items()]
    return sorted(observations, key=lambda item: item.load)


def _random_mixes(rng: Random) -> list[Mix]:
    sizes, shares = zip(*MIXED_SIZES, strict=True)
    return [
        tuple(
            Shape(size.height, size.width, 1)
            for size in rng.choices(sizes, shares, k=rng.randint(1, _MOST_IMAGES))
        )
        for _ in range(_NUM_RANDOM_MIXES)
    ]


def calibrate(points: Sequence[Observation]) -> Calibration:
    """Fit on every second point, of at least four."""
    fitted, held_out = tuple(points[::2]), points[1::2]
    surface = fit(fitted)
    errors = relative_errors(surface, held_out)
    return Calibration(fitted, len(held_out), surface, FitError(median(errors), max(errors)))


def engine_times(calls: Sequence[Call], surface: CostSurface) -> EngineTimes:
    """What `surface` leaves out of the engine's time, from the calls of a run on one thread.

    Raises ValueError for a run without a tick that others followed.
    """
    ticks = [call for call in calls if call.name == "tick"]
    gaps = list(_gaps(calls))
    if not gaps:
        raise ValueError("the run is too short to see what an engine does between two ticks")
    return EngineTimes(
        Overheads(
            per_tick=sum(gaps) / len(ticks),
            per_admission=_mean_s(calls, "admit"),
            per_checkpoint=_mean_s(calls, "checkpoint"),
            per_finish=_mean_s(calls, "finish"),
        ),
        sum(tick.seconds for tick in ticks) / sum(surface.seconds(tick.load) for tick in ticks),
    )


def stretched(points: Iterable[Observation], stretch: float) -> tuple[Observation, ...]:
    """The points as they would have been measured inside the engine."""
    return tuple(Observation(load, seconds * stretch) for load, seconds in points)


def pace_of(calls: Sequence[Call], surface: CostSurface, *, began: float) -> Pace:
    """How much longer than by `surface` the ticks of a run took, in windows of a second.

    `began` is the run's time 0 on the clock of `calls`. A window in which no tick began is like the
    one before; the first ones are like the first with a tick. Raises ValueError without a tick.
    """
    measured: dict[int, float] = {}
    expected: dict[int, float] = {}
    for call in calls:
        if call.name == "tick":
            window = max(0, int((call.began - began) / _PACE_WINDOW_S))
            measured[window] = measured.get(window, 0.0) + call.seconds
            expected[window] = expected.get(window, 0.0) + surface.seconds(call.load)
    if not measured:
        raise ValueError("the run has no tick to tell the machine's pace by")
    factors: list[float] = []
    latest = min(measured)
    for window in range(max(measured) + 1):
        latest = window if window in measured else latest
        factors.append(measured[latest] / expected[latest])
    return Pace(_PACE_WINDOW_S, tuple(factors))


def _gaps(calls: Sequence[Call]) -> Iterable[float]:
    """Seconds between one call and the next, where the engine had not run out of images.

    With nothing under way it may have waited for an arrival, so that time does not count.
    """
    under_way = 0
    for call, following in pairwise(calls):
        under_way += (call.name == "admit") - (call.name == "finish")
        if under_way:
            yield following.began - call.ended


def _mean_s(calls: Sequence[Call], name: str) -> float:
    seconds = [call.seconds for call in calls if call.name == name]
    return fmean(seconds) if seconds else 0.0
