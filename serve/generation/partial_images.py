"""PartialImages: of all previews of a request's images, the few that its client wants to see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from deployments.graph.listening.events import GraphEvent, ImagePreview


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialImage:
    """The preview that stands at place `index`, from 0, among those of its image."""

    index: int
    preview: ImagePreview


class PartialImages:
    """A listener that hands `per_image` previews of each image to `chosen`, evenly over its steps.

    The one at place i of k is the first that is there (i + 1) / (k + 1) of the way. A preview that
    was not made in time leaves its place empty; none is handed out twice.
    """

    wants_steps = False
    wants_checkpoints = False

    def __init__(
        self, num_images: int, per_image: int, chosen: Callable[[PartialImage], None]
    ) -> None:
        self._per_image = per_image
        self._next = [0] * num_images
        self._chosen = chosen

    @property
    def wants_previews(self) -> bool:
        """Until the last of each image is there."""
        return any(index < self._per_image for index in self._next)

    def __call__(self, event: GraphEvent, /) -> None:
        if not isinstance(event, ImagePreview):
            return
        index = place_of(event.step, event.num_steps, self._per_image)
        if index >= self._next[event.image]:
            self._next[event.image] = index + 1
            self._chosen(PartialImage(index=index, preview=event))


def place_of(step: int, num_steps: int, places: int) -> int:
    """The last of `places` places, from 0, that is reached after `step` of `num_steps` steps, to
    the nearest step; -1: none is."""
    reached = (2 * step + 1) * (places + 1) // (2 * num_steps)
    return min(reached, places) - 1
