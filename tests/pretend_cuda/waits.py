"""How often, and for what, the host waited for the device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal

Wait = Literal["synchronize", "event", "upload", "download", "scalar", "list index"]
"""What makes the host wait on a GPU:

    synchronize  for all that a device or a stream has to do
    event        for an event
    upload       a copy from memory that is not pinned, or that is not `non_blocking`
    download     a copy to the host, unless `non_blocking` into pinned memory
    scalar       `.item()`, `bool(x)`, a size that depends on values (`nonzero`)
    list index   `x[[0, 2]]`, which uploads the list
"""


class HostWaits:
    """The log of one pretended device. Any thread may write into it."""

    def __init__(self) -> None:
        self._log: list[Wait] = []

    def note(self, wait: Wait) -> None:
        self._log.append(wait)

    @contextmanager
    def counted(self) -> Generator[Counter[Wait]]:
        """The waits by kind that happen inside, complete when the context ends."""
        begin, found = len(self._log), Counter[Wait]()
        yield found
        found.update(self._log[begin:])
