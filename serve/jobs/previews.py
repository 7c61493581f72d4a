"""Previews: the latest of each image of a job, for whoever watches.

Who looks asks again and again, and may wait for what comes next, here or from another ingress
replica; where nobody has asked for a while, none are made.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from deployments.graph.listening.events import ImagePreview

LINGER_S = 3.0
"""For which previews are made after somebody has asked for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """What somebody has seen of the previews of a runner's hold: all up to `number`."""

    token: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Previews that are new to somebody, who has then seen all up to `marker`."""

    marker: Marker
    previews: tuple[ImagePreview, ...]


class Previews:
    """`turn` is told whether previews are wanted; `token` is that of the runner's hold. For one
    event loop."""

    def __init__(self, token: str, turn: Callable[[bool], None]) -> None:
        self._token = token
        self._turn = turn
        self._latest: dict[int, tuple[int, ImagePreview]] = {}
        self._number = 0
        self._news = asyncio.Event()
        self._end: asyncio.TimerHandle | None = None

    @property
    def are_wanted(self) -> bool:
        """Whether somebody watches."""
        return self._end is not None

    def put(self, preview: ImagePreview) -> None:
        """Show `preview` from now on."""
        self._number += 1
        self._latest[preview.image] = (self._number, preview)
        self.nudge()

    def ask(self, seen: Marker | None) -> Shown:
        """What is new after `seen`; from now on somebody watches, for a while."""
        if self._end is None:
            self._turn(True)
        else:
            self._end.cancel()
        self._end = asyncio.get_running_loop().call_later(LINGER_S, self.close)
        number = seen.number if seen is not None and seen.token == self._token else 0
        found = tuple(preview for at, preview in self._latest.values() if at > number)
        return Shown(marker=Marker(token=self._token, number=self._number), previews=found)

    async def next(self, seen: Marker | None, *, timeout_s: float) -> Shown:
        """As `ask`, as soon as there is something new or the time is over."""
        shown = self.ask(seen)
        if shown.previews:
            return shown
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        return self.ask(seen)

    def nudge(self) -> None:
        """Have all who wait go on, whether there is something new or not."""
        self._news.set()
        self._news = asyncio.Event()

    def close(self) -> None:
        """Nobody watches any more."""
        if self._end is not None:
            self._end.cancel()
            self._end = None
            self._turn(False)
