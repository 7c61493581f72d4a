"""Whether files can be stored, as far as the answers of this ingress replica tell."""

from __future__ import annotations

from collections.abc import Iterable

from pipelines.contracts import FinishedImage


class StorageHealth:
    """Remembers how storing went last. For one event loop; times are Unix seconds."""

    def __init__(self) -> None:
        self._failure = ""
        self._at = 0.0

    def observe(self, images: Iterable[FinishedImage], now: float) -> None:
        """Take in what became of the files of images that were just drawn."""
        for image in images:
            if image.not_stored or image.file_id is not None:
                self._failure, self._at = image.not_stored, now

    def fault(self, now: float) -> str | None:
        """What went wrong with the last file, and when; None if it was stored, or there is none."""
        if not self._failure:
            return None
        return f"{self._failure} ({max(0.0, now - self._at):.0f} s ago, the last time it was tried)"
