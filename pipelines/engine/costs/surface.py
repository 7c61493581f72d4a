"""What a tick costs: a surface over the tokens packed into it, fitted and kept up to date.

    t = max(floor, base + per_token * sum L + per_square * sum L^2 + per_segment * B)

L are the tokens of each of the B segments: linear layers and norms grow with sum L, attention with
sum L^2 as it stays inside segments, and every segment costs a call. `base` is what a tick costs
however little is in it; below `floor` the device waits for its host.

Pure arithmetic: no torch and no clock. Points are measured by `calibrate.py`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

KNEE_SHARE = 0.15
"""Share of a tick that `base` may take where the knee is: past it, packing more than doubles the
length of a tick can win no more than this share of throughput."""

Matrix = NDArray[np.float64]

_REFIT_EVERY = 64
_REPRICE_EVERY = 16
_OBSERVATIONS_KEPT = 512
_FLOORS_TRIED = 16
_MIN_SECONDS = 1e-6


class Load(NamedTuple):
    """What is packed: tokens, the sum of squares of the segments' tokens, and segments."""

    tokens: int
    squares: int
    segments: int

    @classmethod
    def of(cls, lengths: Iterable[int]) -> Load:
        """The load of segments of these lengths."""
        lengths = tuple(lengths)
        return cls(sum(lengths), sum(length * length for length in lengths), len(lengths))

    def plus(self, other: Load) -> Load:
        """Both loads in one tick."""
        return Load(
            self.tokens + other.tokens,
            self.squares + other.squares,
            self.segments + other.segments,
        )

    def minus(self, other: Load) -> Load:
        """What is left without `other`."""
        return Load(
            self.tokens - other.tokens,
            self.squares - other.squares,
            self.segments - other.segments,
        )


EMPTY = Load(0, 0, 0)


class Observation(NamedTuple):
    """A tick of `load` took `seconds`."""

    load: Load
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CostSurface:
    """Seconds of a tick, see the module; every coefficient is at least 0."""

    base: float
    per_token: float
    per_square: float = 0.0
    per_segment: float = 0.0
    floor: float = 0.0

    def marginal(self, load: Load) -> float:
        """Seconds that `load` adds to a tick that is past its floor."""
        return (
            self.per_token * load.tokens
            + self.per_square * load.squares
            + self.per_segment * load.segments
        )

    def seconds(self, load: Load) -> float:
        """Seconds of a tick of `load`."""
        return max(self.floor, self.base + self.marginal(load), _MIN_SECONDS)

    def times(self, factor: float) -> CostSurface:
        """The surface of a device that takes `factor` times as long for everything."""
        return CostSurface(
            base=self.base * factor,
            per_token=self.per_token * factor,
            per_square=self.per_square * factor,
            per_segment=self.per_segment * factor,
            floor=self.floor * factor,
        )

    @property
    def knee(self) -> float:
        """Seconds of a tick past which a fuller one only makes everybody in it wait longer."""
        return max(self.floor, self.base / KNEE_SHARE)

    def knee_tokens(self, length: int) -> int:
        """The knee in tokens, for segments of `length` tokens: at least one segment."""
        each = max(self.marginal(Load.of([length])), _MIN_SECONDS)
        return length * max(1, int((self.knee - self.base) / each))

    def share(self, load: Load, *, at_most: float = math.inf) -> float:
        """Seconds of the engine that one step of `load` takes, its part of `base` included.

        It shares `base` with as many of its like as fill a tick up to the knee, but with no more
        than `at_most` in all; one that fills a tick by itself pays for all of it.
        """
        own, room = self.marginal(load), self.knee - self.base
        together = max(1.0, min(at_most, room / max(own, _MIN_SECONDS)))
        return max(self.floor, self.base + together * own, _MIN_SECONDS) / together


def fit(observations: Sequence[Observation]) -> CostSurface:
    """The surface that fits best, by least squares of the relative error.

    Coefficients are kept from being negative by trying every set of them that may be positive.
    Raises ValueError without any observation.
    """
    if not observations:
        raise ValueError("a cost surface needs at least one measured point")
    seconds = np.array([item.seconds for item in observations])
    features = np.array([[1.0, *item.load] for item in observations])
    best = _solve(features, seconds)
    best_error = _error(best, features, seconds)
    # The floor shows as points of equal time: try measured times as one.
    times = np.unique(seconds)
    low = times[: len(times) // 2]
    for floor in low[:: 1 + len(low) // _FLOORS_TRIED].tolist():
        above = seconds > floor * 1.02
        if above.sum() < 4:
            break
        candidate = _solve(features[above], seconds[above], floor=floor)
        error = _error(candidate, features, seconds)
        if error < 0.8 * best_error - 1e-9:
            best, best_error = candidate, error
    return best


def _solve(features: Matrix, seconds: Matrix, *, floor: float = 0.0) -> CostSurface:
    """Nonnegative least squares over so few columns that all subsets of them can be tried.

    By the normal equations, as hundreds of points are fitted while requests wait.
    """
    weighted = features / seconds[:, None]
    scale = np.maximum(np.abs(weighted).max(axis=0), 1e-30)
    scaled = weighted / scale
    products, sums = scaled.T @ scaled, scaled.sum(axis=0)
    best, best_error = np.zeros(4), np.inf
    for count in range(1, 5):
        for columns in map(list, combinations(range(4), count)):
            solution = _least_squares(products[np.ix_(columns, columns)], sums[columns])
            if float(solution.min()) < 0:
                continue
            # |A x - 1|^2 where A'A x = A'1.
            error = float(len(seconds) - sums[columns] @ solution)
            if error < best_error - 1e-9:
                best, best_error = np.zeros(4), error
                best[columns] = solution
    base, per_token, per_square, per_segment = (float(value) for value in best / scale)
    return CostSurface(
        base=base,
        per_token=per_token,
        per_square=per_square,
        per_segment=per_segment,
        floor=floor,
    )


def _least_squares(products: Matrix, sums: Matrix) -> Matrix:
    result: Any = np.linalg.lstsq(products, sums, rcond=None)
    return result[0]


def _error(surface: CostSurface, features: Matrix, seconds: Matrix) -> float:
    """The sum of squared relative errors."""
    coefficients = [surface.base, surface.per_token, surface.per_square, surface.per_segment]
    predicted = np.maximum(features @ np.array(coefficients), max(surface.floor, _MIN_SECONDS))
    return float(np.square(predicted / seconds - 1).sum())


def relative_errors(surface: CostSurface, observations: Sequence[Observation]) -> list[float]:
    """|predicted / measured - 1| of each observation."""
    return [abs(surface.seconds(load) / seconds - 1) for load, seconds in observations]


class CostModel:
    """The surface in force, refined by the ticks that really ran: a shape and a pace.

    The pace, a factor, follows at once what changes for all ticks (a shared machine, a hot GPU).
    The shape is fitted anew from time to time, over the calibration and the latest ticks, each
    brought to the calibration's speed. Ticks are much alike, as they are filled to the knee, and a
    shared machine's times vary by more than `base` is, so by themselves they tell little of it: a
    knee that followed them would stray, to 0 in the end. So all ticks of about one load are one
    point, and the calibration, whose loads differ, keeps the shape.
    """

    def __init__(self, calibration: Sequence[Observation]) -> None:
        self._calibration = tuple(calibration)
        self._calibrated = self._shape = fit(self._calibration)
        self._recent: deque[Observation] = deque(maxlen=_OBSERVATIONS_KEPT)
        """At the calibration's speed."""
        self._pace = 1.0
        self._observed = 0

    @property
    def surface(self) -> CostSurface:
        """The surface as of now."""
        return self._shape.times(self._pace)

    def observe(self, load: Load, seconds: float) -> bool:
        """Take a tick into account; True when the surface was fitted anew."""
        ratio = max(seconds, _MIN_SECONDS) / self._shape.seconds(load)
        # Clipped, so that one tick that the machine interrupted changes little.
        ratio = min(max(ratio, self._pace / 4), self._pace * 4)
        self._pace += 0.05 * (ratio - self._pace)
        self._recent.append(Observation(load, ratio * self._shape.seconds(load) / self._pace))
        self._observed += 1
        if self._observed % _REFIT_EVERY:
            return False
        self._refit()
        return True

    def learn(self, load: Load, seconds: float) -> CostSurface | None:
        """Take a tick into account; the surface when it is to be planned by from now on.

        That is where it was fitted anew, and else every so many ticks: planning by another one
        prices all works anew.
        """
        is_new = self.observe(load, seconds)
        return self.surface if is_new or self._observed % _REPRICE_EVERY == 0 else None

    def _refit(self) -> None:
        points = self._points()
        before = self._shape
        self._shape = fit([*self._calibration, *points])
        # What ticks of today cost stays the same: only what tells them apart is new.
        self._pace *= _median(
            before.seconds(load) / self._shape.seconds(load) for load, _ in points
        )

    def _points(self) -> list[Observation]:
        """One observation for all recent ticks of about one load, the median of their ratios.

        Brought to the level of the calibration, as their own is the pace's affair.
        """
        ratios: dict[tuple[int, int], list[float]] = {}
        loads: dict[tuple[int, int], Load] = {}
        for load, seconds in self._recent:
            cell = (round(2 * math.log2(load.tokens)), round(math.log2(load.segments)))
            ratios.setdefault(cell, []).append(seconds / self._calibrated.seconds(load))
            loads[cell] = load
        medians = {cell: _median(each) for cell, each in ratios.items()}
        level = _median(medians.values())
        return [
            Observation(load, medians[cell] / level * self._calibrated.seconds(load))
            for cell, load in loads.items()
        ]


def _median(values: Iterable[float]) -> float:
    return float(np.median(list(values)))
