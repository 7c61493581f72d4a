"""A listener for tests, which keeps what it is told."""

from __future__ import annotations

from dataclasses import dataclass, field

from deployments.graph.listening.events import GraphEvent, ImagePreview, Progress
from deployments.wire.parts import ImageCheckpoint, ImageDrawn


@dataclass
class Heard:
    """A `Listener`, by default to progress alone."""

    events: list[GraphEvent] = field(default_factory=list[GraphEvent])
    wants_steps: bool = True
    wants_checkpoints: bool = False
    wants_previews: bool = False

    def __call__(self, event: GraphEvent, /) -> None:
        self.events.append(event)

    @property
    def progress(self) -> list[Progress]:
        return [each for each in self.events if isinstance(each, Progress)]

    @property
    def checkpoints(self) -> list[ImageCheckpoint]:
        return [each for each in self.events if isinstance(each, ImageCheckpoint)]

    @property
    def drawn(self) -> list[ImageDrawn]:
        return [each for each in self.events if isinstance(each, ImageDrawn)]

    @property
    def previews(self) -> list[ImagePreview]:
        return [each for each in self.events if isinstance(each, ImagePreview)]
