"""How far the images of a request are, as the graph sees it, for whoever listens.

Conditionings and pixels go from stage to stage by reference, so two seams are not seen from here:
an image is "encode" until its denoiser has told of a step, and "decode" while it is classified.
Steps are told with each checkpoint, and twice a second in between if somebody listened when the
denoiser was asked.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from deployments.wire.packed import PackedCheckpoint
from pipelines.contracts import GenerationParams
from pipelines.job_shape import shape_of


class Phase(StrEnum):
    """What is done for an image, in this order; `DONE` once its file is there."""

    ENCODE = "encode"
    DENOISE = "denoise"
    DECODE = "decode"
    FINISH = "finish"
    DONE = "done"


_ORDER = list(Phase)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Image `image` of a request is in `phase`, after `step` of `num_steps` forwards.

    `num_steps` may become fewer on the way, where `min_inference_steps` allows it.
    """

    image: int
    phase: Phase
    step: int
    num_steps: int


Listener = Callable[[Progress], None]
"""Is told of progress in the event loop that draws; must neither block nor raise."""


def unheard(_: Progress) -> None:
    """The listener of a request whose progress nobody wants to know."""


def is_heard(listener: Listener) -> bool:
    """Whether anybody wants to know, as it is now."""
    return listener.is_heard if isinstance(listener, Broadcast) else listener is not unheard


class ImageProgress:
    """Tells `listener` of one image. What is done again, as a replica was lost, is not told again:
    an image never goes back."""

    def __init__(self, image: int, params: GenerationParams, listener: Listener) -> None:
        self._image = image
        self._listener = listener
        self._num_steps = self._num_forwards = shape_of(params).forwards
        self._step = 0
        self._reached = (-1, 0)

    @property
    def is_heard(self) -> bool:
        """Whether anybody wants to know, as it is now."""
        return is_heard(self._listener)

    def enters(self, phase: Phase) -> None:
        """Tell that the image is in `phase` from now on."""
        self._tell(phase)

    def stepped(self, step: int, num_steps: int) -> None:
        """`step` forwards of `num_steps` are done."""
        if step > self._step:
            self._step, self._num_steps = step, num_steps
            self._tell(Phase.DENOISE)

    def checkpointed(self, checkpoint: PackedCheckpoint) -> None:
        """It would go on from there."""
        cuts = checkpoint.cuts
        self.stepped(checkpoint.step, cuts[-1].num_steps if cuts else self._num_forwards)

    def denoised(self, steps_run: int) -> None:
        """Tell that all forwards of the image are done."""
        self.stepped(steps_run, steps_run)
        self._tell(Phase.DECODE)

    def _tell(self, phase: Phase) -> None:
        at = (_ORDER.index(phase), self._step)
        if at > self._reached:
            self._reached = at
            self._listener(
                Progress(image=self._image, phase=phase, step=self._step, num_steps=self._num_steps)
            )


class Broadcast:
    """A listener that passes on to any number of others, who may come and go meanwhile."""

    def __init__(self) -> None:
        self._latest: dict[int, Progress] = {}
        self._listeners: list[Listener] = []

    def __call__(self, progress: Progress) -> None:
        self._latest[progress.image] = progress
        for listener in tuple(self._listeners):
            listener(progress)

    @property
    def is_heard(self) -> bool:
        return bool(self._listeners)

    @contextmanager
    def heard_by(self, listener: Listener) -> Generator[None]:
        """As long as the body, `listener` is told too; first of all how far each image is."""
        if not is_heard(listener):
            yield
            return
        for progress in self._latest.values():
            listener(progress)
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)
