"""Which images of a batch one `FluxPipeline` call can draw, and which prompts it must encode.

Pure: what a batch is made of, nothing about how it is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Shape(NamedTuple):
    """What all images of one `FluxPipeline` call have in common."""

    height: int
    width: int
    steps: int
    guidance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTask:
    """One image of a request; `seed` is the image's own."""

    prompt: str
    seed: int
    shape: Shape


class Prompts(NamedTuple):
    """`unique` prompts in order of appearance, and for each image the `index` of its own."""

    unique: list[str]
    index: list[int]


def groups(tasks: Sequence[ImageTask]) -> list[list[int]]:
    """Positions of `tasks` by shape, the shape of the oldest first."""
    found: dict[Shape, list[int]] = {}
    for position, task in enumerate(tasks):
        found.setdefault(task.shape, []).append(position)
    return list(found.values())


def prompts_of(tasks: Sequence[ImageTask]) -> Prompts:
    """What has to be encoded, each prompt once."""
    places: dict[str, int] = {}
    index = [places.setdefault(task.prompt, len(places)) for task in tasks]
    return Prompts(list(places), index)
