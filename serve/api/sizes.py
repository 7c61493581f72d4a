"""Image sizes: reading `WIDTHxHEIGHT`, the bounds, and the nearest size that is allowed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipelines.catalog import ModelSpec
from pipelines.errors import InvalidRequest
from pipelines.families import family_of
from pipelines.prompts.syntax import MAX_RATIO, size_for_ratio
from serve.settings.settings import Limits

_SIZE = re.compile(r"([+-]?\d{1,9})[xX×]([+-]?\d{1,9})", re.ASCII)

_EPSILON = 1e-6


class Size(NamedTuple):
    """Pixels; written as clients write it, width first."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


class Ratio(NamedTuple):
    """Width to height, the field that says so, and how it is written there."""

    width: int
    height: int
    field: str
    written: str

    @classmethod
    def parse(cls, text: str) -> Ratio:
        """The ratio written as `W:H` in the field `aspect_ratio`; raises InvalidRequest."""
        width, height = map(int, text.split(":"))
        if min(width, height) < 1 or max(width, height) > MAX_RATIO * min(width, height):
            raise InvalidRequest(
                f"aspect_ratio: must be 1:{MAX_RATIO} to {MAX_RATIO}:1, got '{text}'",
                param="aspect_ratio",
            )
        return cls(width, height, "aspect_ratio", text)

    @classmethod
    def in_prompt(cls, ratio: tuple[int, int]) -> Ratio:
        """The ratio (width, height) that a prompt's `--ar` names."""
        return cls(*ratio, "prompt", f"--ar {ratio[0]}:{ratio[1]}")

    def is_same(self, other: Ratio) -> bool:
        """As 16:9 and 32:18 are."""
        return self.width * other.height == self.height * other.width


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeRules:
    """Which sizes a model and a server allow together: on its family's grid, and within bounds."""

    default: Size
    min_side: int
    max_side: int
    max_pixels: int
    multiple: int

    @classmethod
    def of(cls, spec: ModelSpec, limits: Limits) -> SizeRules:
        return cls(
            default=Size(spec.height, spec.width),
            min_side=limits.min_side,
            max_side=min(spec.max_side, limits.max_side),
            max_pixels=limits.max_pixels,
            multiple=family_of(spec).size_multiple,
        )

    def parse(self, text: str) -> Size:
        """The size written as `WIDTHxHEIGHT`; raises InvalidRequest naming `size`."""
        match = _SIZE.fullmatch(text.strip())
        if match is None:
            raise InvalidRequest(
                f"size: must be 'auto' or 'WIDTHxHEIGHT' such as '{self.default}',"
                f" got {text[:40]!r}",
                param="size",
            )
        size = Size(height=int(match[2]), width=int(match[1]))
        self._check(size)
        return size

    def allows(self, text: str) -> bool:
        """Whether `parse` takes `text` as a size."""
        try:
            self.parse(text)
        except InvalidRequest:
            return False
        return True

    def choose(self, size: str, ratios: Sequence[Ratio]) -> Size:
        """What `size`, which may be `auto`, and any ratios say together; raises InvalidRequest
        where they contradict each other or no size is allowed."""
        explicit = None if size == "auto" else self.parse(size)
        if not ratios:
            return explicit or self.default
        first, *others = ratios
        for other in others:
            if not first.is_same(other):
                raise InvalidRequest(
                    f"{other.field}: {other.written} contradicts {first.written} in the"
                    f" {first.field}; leave one of them out",
                    param=other.field,
                )
        by_ratio = self.for_ratio(first, explicit or self.default)
        if explicit not in (None, by_ratio):
            whose = "the --ar of the prompt" if first.field == "prompt" else first.field
            raise InvalidRequest(
                f"size: {explicit} contradicts {whose}, which would be {by_ratio};"
                " leave one of them out",
                param="size",
            )
        return by_ratio

    def for_ratio(self, ratio: Ratio, near: Size) -> Size:
        """The size of `ratio` with the area of `near`; raises InvalidRequest."""
        try:
            height, width = size_for_ratio(
                (ratio.width, ratio.height),
                area=near.height * near.width,
                multiple=self.multiple,
                max_side=self.max_side,
                min_side=self.min_side,
                max_area=self.max_pixels,
            )
        except ValueError as error:
            raise InvalidRequest(
                f"{ratio.field}: {ratio.written} has no size with sides of {self.min_side} to"
                f" {self.max_side} pixels and at most {self.max_pixels} in all",
                param=ratio.field,
            ) from error
        return Size(height, width)

    def nearest(self, size: Size) -> Size:
        """The allowed size nearest to `size`, of its ratio to within a grid step a side.

        A size that is too large shrinks in proportion, and one that is too small grows so, before
        both sides go to the grid. Of a ratio that no allowed size has, the longest there is.
        """
        if self._problem(size) is None:
            return size
        short, long = self._within_bounds(size)
        lows = [int((side + _EPSILON) // self.multiple) * self.multiple for side in (short, long)]
        steps = (0, self.multiple)
        sizes = [Size(lows[0] + up, lows[1] + on) for up in steps for on in steps]

        def misfit(each: Size) -> float:
            by_short, by_long = math.log(each.height / short), math.log(each.width / long)
            return abs(by_short) + abs(by_long) + abs(by_long - by_short)

        best = min((each for each in sizes if self._problem(each) is None), key=misfit)
        return Size(best.width, best.height) if size.height > size.width else best

    def _within_bounds(self, size: Size) -> tuple[float, float]:
        """(short, long) of `size` after it was shrunk, or grown, in proportion."""
        short, long = sorted(side if side > 0 else self.min_side for side in size)
        longest = min(self.max_side, self.max_pixels // self.min_side)
        longest -= longest % self.multiple
        if long * self.min_side > short * longest:
            return self.min_side, longest
        scale = min(1.0, self.max_side / long, math.sqrt(self.max_pixels / (short * long)))
        scale = max(scale, self.min_side / short)
        return short * scale, long * scale

    def _problem(self, size: Size) -> str | None:
        if any(side % self.multiple for side in size):
            return f"both sides must be multiples of {self.multiple}"
        if not all(self.min_side <= side <= self.max_side for side in size):
            return f"both sides must be {self.min_side} to {self.max_side} pixels"
        if size.height * size.width > self.max_pixels:
            return f"at most {self.max_pixels} pixels in all"
        return None

    def _check(self, size: Size) -> None:
        if (problem := self._problem(size)) is not None:
            raise InvalidRequest(
                f"size: {problem}, got {size}; the nearest allowed size is {self.nearest(size)}",
                param="size",
            )
