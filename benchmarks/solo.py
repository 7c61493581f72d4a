"""The solo time of a request: what it takes on an idle server, by size, steps and images.

It is the unit of load and of deadlines, the same for every server that is compared. Measured on a
few kinds of request; between them it is interpolated, linear in steps and in images.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.load import GENERATE, HttpClient
from benchmarks.requests import MIXED_SIZES, Size, body, prompts
from benchmarks.trace import Kind

IMAGES = (1, 2, 4, 8)
_REPEATS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SoloTimes:
    """Seconds by size, `steps` (two counts) and images."""

    steps: tuple[int, int]
    seconds: Mapping[Kind, float]

    def __call__(self, kind: Kind) -> float:
        """Raises KeyError for a size that was not measured."""
        few, many = (self._at(kind.size, steps, kind.n) for steps in self.steps)
        low, high = self.steps
        # Fewer steps than were measured still need encoding and decoding.
        return max(few / 2, few + (many - few) * (kind.steps - low) / (high - low))

    def _at(self, size: Size, steps: int, n: int) -> float:
        """Linear between the measured numbers of images, and beyond them in proportion."""
        if n >= IMAGES[-1]:
            return self.seconds[Kind(size, steps, IMAGES[-1])] * n / IMAGES[-1]
        for low, high in itertools.pairwise(IMAGES):
            if low <= n <= high:
                less, more = (self.seconds[Kind(size, steps, count)] for count in (low, high))
                return less + (more - less) * (n - low) / (high - low)
        raise ValueError(f"n: {n} is less than 1")

    def to_json(self) -> list[list[object]]:
        """For a file: one row per kind."""
        return [
            [kind.size.width, kind.size.height, kind.steps, kind.n, seconds]
            for kind, seconds in self.seconds.items()
        ]

    @classmethod
    def from_json(cls, rows: Sequence[Sequence[float]]) -> SoloTimes:
        """Undo `to_json`."""
        seconds = {
            Kind(Size(int(width), int(height)), int(steps), int(n)): taken
            for width, height, steps, n, taken in rows
        }
        low, high = sorted({kind.steps for kind in seconds})
        return cls(steps=(low, high), seconds=seconds)


def measure_solo(url: str, *, default_steps: int) -> SoloTimes:
    """Medians of requests sent one at a time, in random order. Raises RuntimeError on a failure."""
    steps = (default_steps, 2 * default_steps)
    kinds = [
        Kind(size, count, n)
        for (size, _), count, n in itertools.product(MIXED_SIZES, steps, IMAGES)
    ]
    taken: dict[Kind, list[float]] = {kind: [] for kind in kinds}
    order = kinds * _REPEATS
    random.Random("solo").shuffle(order)
    asyncio.run(_send_all(url, order, taken))
    return SoloTimes(steps=steps, seconds={kind: median(taken[kind]) for kind in kinds})


async def _send_all(url: str, order: Sequence[Kind], taken: Mapping[Kind, list[float]]) -> None:
    texts = prompts(-1, count=len(order))
    async with HttpClient(url) as client:
        for text, kind in zip(texts, order, strict=True):
            request = body(text, size=kind.size, seed=1, n=kind.n, num_inference_steps=kind.steps)
            began = time.perf_counter()
            answer = await client.post(GENERATE, request)
            taken[kind].append(time.perf_counter() - began)
            if answer.status != 200:
                raise RuntimeError(f"{url} answered {answer.status}: {answer.body[:200]!r}")
