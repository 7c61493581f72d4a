"""Which works of a tick are shown: those that somebody looks at, if the previewer has time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines.engine.entry import Entry

if TYPE_CHECKING:
    from pipelines.previews.previewer import Previewer

EVERY_S = 0.1
"""Between two previews of an image, at least: nobody sees more."""

MOST_AT_ONCE = 8
"""Of one tick; the others' turn comes with the next."""


class Previewing:
    """Of one engine; without a `previewer`, nothing is ever shown."""

    def __init__(self, previewer: Previewer | None) -> None:
        self._previewer = previewer

    def choose(self, entries: Sequence[Entry]) -> None:
        """Before a tick: have its trajectories say what they predict, where that will be shown."""
        if self._previewer is None:
            return
        now = time.monotonic()
        looked_at = [
            entry
            for entry in entries
            if entry.is_shown
            and entry.on_preview is not None
            and now - entry.shown_at >= EVERY_S
            and entry.trajectory.step + 1 < entry.trajectory.num_steps
        ]
        if looked_at and self._previewer.is_idle:
            for entry in sorted(looked_at, key=lambda entry: entry.shown_at)[:MOST_AT_ONCE]:
                entry.shown_at = now
                entry.trajectory.predicts = True

    def show(self, stepped: Sequence[Entry]) -> None:
        """After it: hand over what was predicted."""
        if self._previewer is None:
            return
        from pipelines.previews.previewer import Predicted

        found: list[Predicted] = []
        for entry in stepped:
            trajectory, sampling = entry.trajectory, entry.job.sampling
            latents, trajectory.predicts, trajectory.predicted = trajectory.predicted, False, None
            if latents is not None and entry.on_preview is not None:
                found.append(
                    Predicted(
                        work_id=entry.id,
                        step=trajectory.step,
                        num_steps=trajectory.num_steps,
                        latents=latents,
                        height=sampling.height,
                        width=sampling.width,
                        on_preview=entry.on_preview,
                    )
                )
        self._previewer.offer(found)
