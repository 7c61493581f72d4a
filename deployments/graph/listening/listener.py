"""Listener: who is told of a request while it is drawn, and what of it they want to hear."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol, assert_never

from deployments.graph.listening.events import GraphEvent, ImagePreview, Progress
from deployments.wire.parts import ImageCheckpoint, ImageDrawn


class Listener(Protocol):
    """Is told of events in the event loop that draws; must neither block nor raise.

    What it wants may change on the way, and is asked when there is something to tell.
    """

    @property
    def wants_steps(self) -> bool:
        """Whether somebody wants to know of each step; `Progress` of phases and checkpoints, which
        costs nothing, is told anyway."""
        ...

    @property
    def wants_checkpoints(self) -> bool:
        """Whether it is told what the request would go on from: `ImageCheckpoint`, `ImageDrawn`."""
        ...

    @property
    def wants_previews(self) -> bool:
        """Whether it is shown what images will be: `ImagePreview`. What it says when works begin
        decides whether those are shown; while they run, `Steering.previews` changes that."""
        ...

    def __call__(self, event: GraphEvent, /) -> None: ...


class Wants(NamedTuple):
    """What a listener wants, as it was when it was asked."""

    steps: bool = False
    checkpoints: bool = False
    previews: bool = False

    @classmethod
    def of(cls, listener: Listener) -> Wants:
        """What `listener` wants at this moment; it may want something else later."""
        return cls(listener.wants_steps, listener.wants_checkpoints, listener.wants_previews)


NO_WANTS = Wants()


@dataclass(slots=True)
class CallbackListener:
    """Has `callback` called with what is wanted: without a word, with progress alone."""

    callback: Callable[[GraphEvent], None]
    wants_steps: bool = True
    wants_checkpoints: bool = False
    wants_previews: bool = False

    def __call__(self, event: GraphEvent, /) -> None:
        self.callback(event)


class _Unheard:
    wants_steps = wants_checkpoints = wants_previews = False

    def __call__(self, event: GraphEvent, /) -> None:
        """Does nothing: nobody listens."""


unheard: Listener = _Unheard()
"""The listener of a request of which nobody wants to know anything."""


def tell(listener: Listener, event: GraphEvent) -> None:
    """Tell `listener` of `event`, unless it does not want to know."""
    if is_wanted(event, listener):
        listener(event)


def is_wanted(event: GraphEvent, listener: Listener) -> bool:
    """Whether `listener` wants to know of `event`, as it is now."""
    match event:
        case Progress():
            return True
        case ImageCheckpoint() | ImageDrawn():
            return listener.wants_checkpoints
        case ImagePreview():
            return listener.wants_previews
    assert_never(event)


class Broadcast:
    """A listener that passes on to any number of others, who may come and go meanwhile.

    It wants what any of them wants, and tells each what that one wants.
    """

    def __init__(self) -> None:
        self._latest: dict[int, Progress] = {}
        self._listeners: list[Listener] = []

    def __call__(self, event: GraphEvent, /) -> None:
        if isinstance(event, Progress):
            self._latest[event.image] = event
        for listener in tuple(self._listeners):
            tell(listener, event)

    @property
    def wants_steps(self) -> bool:
        return any(each.wants_steps for each in self._listeners)

    @property
    def wants_checkpoints(self) -> bool:
        return any(each.wants_checkpoints for each in self._listeners)

    @property
    def wants_previews(self) -> bool:
        return any(each.wants_previews for each in self._listeners)

    @contextmanager
    def heard_by(self, listener: Listener) -> Generator[None]:
        """As long as the body, `listener` is told too; first of all how far each image is."""
        for progress in self._latest.values():
            tell(listener, progress)
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)
