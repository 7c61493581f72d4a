"""Steering: what is asked of a request that is being drawn, by whoever asked for it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import NamedTuple


class Controls(NamedTuple):
    """What is asked of a request's images, as of now: to be finished with the next step (`keep`),
    and whether they are shown meanwhile, where None leaves that to the listener."""

    keep: bool = False
    previews: bool | None = None


NO_CONTROLS = Controls()


class Steering:
    """Of one request. Everything can be asked at any time, and again; for one event loop."""

    def __init__(self, controls: Controls = NO_CONTROLS) -> None:
        self._controls = controls
        self._followers: list[Callable[[], None]] = []

    @property
    def controls(self) -> Controls:
        """All that was asked so far."""
        return self._controls

    def keep(self) -> None:
        """Finish every image now, from the clean image that its next step predicts.

        One that has done no step yet does its first before that. Where schedules cannot be cut,
        and for requests that skip steps, images are finished as they would have been.
        """
        self.ask(self._controls._replace(keep=True))

    def previews(self, on: bool) -> None:
        """Show the images from now on, or stop showing them, whatever the listener wanted when it
        began."""
        self.ask(self._controls._replace(previews=on))

    def ask(self, controls: Controls) -> None:
        """Ask for all of this; what was to be kept is kept."""
        controls = controls._replace(keep=controls.keep or self._controls.keep)
        if controls != self._controls:
            self._controls = controls
            for changed in tuple(self._followers):
                changed()

    @contextmanager
    def followed_by(self, changed: Callable[[], None]) -> Generator[None]:
        """As long as the body, `changed` is called whenever something else is asked."""
        self._followers.append(changed)
        try:
            yield
        finally:
            self._followers.remove(changed)
