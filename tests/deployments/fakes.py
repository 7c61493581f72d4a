"""Stand-ins for what a test of one deployment does not want to load. Typed as the real ones."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.contracts import SafetyVerdict


class FakeClassifier:
    """An image classifier that flags images whose mean level is at least `flag_from`."""

    def __init__(self, flag_from: float = 256.0) -> None:
        self.flag_from = flag_from
        self.batches: list[int] = []

    def classify(self, images: Sequence[np.ndarray]) -> list[SafetyVerdict]:
        """One verdict per image, in order; the score is the mean level over 255."""
        self.batches.append(len(images))
        return [
            SafetyVerdict(
                flagged=bool(image.mean() >= self.flag_from),
                category="sexual",
                score=float(image.mean()) / 255,
                threshold=min(self.flag_from / 255, 1.0),
                classifier="fake",
            )
            for image in images
        ]


class FakeMethod:
    """A handle's method whose call is answered by a coroutine function in this event loop."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def remote(self, *args: Any) -> asyncio.Task[Any]:
        return asyncio.ensure_future(self._answer(*args))
