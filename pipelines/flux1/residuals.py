"""What ControlNets add to the image tokens of a packed forward, block by block.

Shapes:  S image tokens of a segment      d transformer width      G, N groups of N tokens
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple, Protocol

import torch

from pipelines.packing.layout import SegmentShape


class BlockObserver(Protocol):
    """Sees tokens between two blocks, as rows of all segments."""

    def after_double(self, index: int, image: torch.Tensor) -> None:
        """Image tokens (G, N, d) after double block `index`."""
        ...

    def after_single(self, index: int, joint: torch.Tensor) -> None:
        """Text and image of each segment (G, N, d) after single block `index`."""
        ...


class BlockSamples(NamedTuple):
    """What a ControlNet says after its double and its single blocks, (S, d) each."""

    doubles: Sequence[torch.Tensor]
    singles: Sequence[torch.Tensor]

    def scaled(self, scale: float) -> BlockSamples:
        """Each times `scale`."""
        return BlockSamples(
            [each * scale for each in self.doubles], [x * scale for x in self.singles]
        )

    def plus(self, other: BlockSamples) -> BlockSamples:
        """The sums, as far as both go."""
        return BlockSamples(
            [one + two for one, two in zip(self.doubles, other.doubles, strict=False)],
            [one + two for one, two in zip(self.singles, other.singles, strict=False)],
        )


class BlockResidual(NamedTuple):
    """`samples` for segment `segment`: block i of a kind takes the one at i // `every`."""

    segment: int
    samples: BlockSamples
    every_double: int
    every_single: int


class ResidualAddition:
    """Adds residuals to their segments' image tokens; a `BlockObserver`."""

    def __init__(self, residuals: Sequence[BlockResidual], shapes: Sequence[SegmentShape]) -> None:
        self._residuals = residuals
        self._image = image_rows(shapes)
        self._joint = joint_rows(shapes)

    def after_double(self, index: int, image: torch.Tensor) -> None:
        rows = image.flatten(0, 1)
        for segment, samples, every, _ in self._residuals:
            if samples.doubles:
                rows[self._image[segment]].add_(samples.doubles[index // every])

    def after_single(self, index: int, joint: torch.Tensor) -> None:
        rows = joint.flatten(0, 1)
        for segment, samples, _, every in self._residuals:
            if samples.singles:
                rows[self._joint[segment]].add_(samples.singles[index // every])


def image_rows(shapes: Sequence[SegmentShape]) -> list[slice]:
    """Where the image tokens of each segment stand among all image tokens."""
    ends = accumulate(shape.image for shape in shapes)
    return [slice(end - shape.image, end) for shape, end in zip(shapes, ends, strict=True)]


def joint_rows(shapes: Sequence[SegmentShape]) -> list[slice]:
    """Where they stand in segment order."""
    ends = accumulate(map(sum, shapes))
    return [slice(end - shape.image, end) for shape, end in zip(shapes, ends, strict=True)]
