"""DecodeLatency: how long an image takes from its latents to its file.

A deadline is the request's, the engine keeps that of the latents: what lies between is learnt here
from the images that were finished. Pure: time comes in as an argument.
"""

from __future__ import annotations

from typing import NamedTuple

WEIGHT = 0.2
"""Of the latest image in the moving average."""
HALF_LIFE_S = 60.0
"""An estimate that no image confirms fades: after one slow image, requests with short deadlines
would else be refused for ever, and with them whatever could correct it."""


class DecodeLatency:
    """Seconds of decoding, classifying and finishing, by the image's pixel count."""

    def __init__(self) -> None:
        self._known: dict[int, _Average] = {}

    def observe(self, pixels: int, seconds: float, *, now: float) -> None:
        """An image of so many pixels took so long; `now` is in seconds of any one clock."""
        last = self._known.get(pixels)
        mean = seconds if last is None else last.seconds + WEIGHT * (seconds - last.seconds)
        self._known[pixels] = _Average(mean, now)

    def seconds(self, pixels: int, *, now: float) -> float:
        """What an image of so many pixels is expected to take; 0 before the first of its size."""
        known = self._known.get(pixels)
        if known is None:
            return 0.0
        return known.seconds * 0.5 ** (max(0.0, now - known.at) / HALF_LIFE_S)

    def lately_s(self, pixels: int) -> float:
        """What the last images of the nearest size took, however long ago; 0 before the first."""
        if not self._known:
            return 0.0
        nearest = min(self._known, key=lambda known: max(known, pixels) / min(known, pixels))
        return self._known[nearest].seconds


class _Average(NamedTuple):
    """A moving average, and when it was last added to."""

    seconds: float
    at: float
