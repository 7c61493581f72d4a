"""What stands in for `torch.cuda`: the device's properties, streams, events, pinned memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

from tests.pretend_cuda.tensor import Arrival, Pinned, PretendMode
from tests.pretend_cuda.waits import HostWaits, Wait

MEMORY_BYTES = 8 * 2**30
CAPABILITY = (9, 0)


class Queue:
    """What a stream or an event still has to bring to the host."""

    def __init__(self, waits: HostWaits) -> None:
        self._waits = waits
        self.pending: list[Arrival] = []

    def query(self) -> bool:
        """False as long as anything is pending; asking is how time passes here."""
        return not self._deliver()

    def _wait(self, kind: Wait) -> None:
        self._waits.note(kind)
        self._deliver()

    def _deliver(self) -> int:
        pending, self.pending = self.pending, []
        for arrival in pending:
            arrival.bring()
        return len(pending)


class Stream(Queue):
    """`torch.cuda.Stream`."""

    def synchronize(self) -> None:
        self._wait("synchronize")

    def wait_stream(self, other: Stream) -> None:
        self.pending += other.pending

    def wait_event(self, event: Event) -> None:
        self.pending += event.pending

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event(self._waits, self)
        event.record(self)
        return event


class Event(Queue):
    """`torch.cuda.Event`, on the host's clock."""

    def __init__(self, waits: HostWaits, stream: Stream) -> None:
        super().__init__(waits)
        self._default = stream
        self._at: float | None = None

    def record(self, stream: Stream | None = None) -> None:
        self.pending = list((stream or self._default).pending)
        self._at = time.perf_counter()

    def wait(self, stream: Stream | None = None) -> None:
        (stream or self._default).wait_event(self)

    def synchronize(self) -> None:
        self._wait("event")

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds."""
        assert self._at is not None, "the event was not recorded"
        assert end._at is not None, "the event was not recorded"
        return 1000 * (end._at - self._at)


class Runtime:
    """One device, with a default stream that all threads share unless they choose another."""

    def __init__(self) -> None:
        self.waits = HostWaits()
        self._pinned = Pinned()
        self._streams = [Stream(self.waits)]
        self._chosen = threading.local()

    def mode(self) -> PretendMode:
        """For one thread."""
        return PretendMode(
            self.waits, self._pinned, lambda arrival: self.stream.pending.append(arrival)
        )

    @property
    def stream(self) -> Stream:
        return getattr(self._chosen, "stream", self._streams[0])

    def stand_ins(self) -> dict[str, Any]:
        """By their names in `torch.cuda`."""
        return {
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "current_device": lambda: 0,
            "set_device": lambda device: None,
            "get_device_name": lambda device=None: "Pretended GPU",
            "get_device_capability": lambda device=None: CAPABILITY,
            "mem_get_info": lambda device=None: (MEMORY_BYTES, MEMORY_BYTES),
            "empty_cache": lambda: None,
            "max_memory_allocated": lambda device=None: 0,
            "reset_peak_memory_stats": lambda device=None: None,
            "synchronize": self._synchronize,
            "current_stream": lambda device=None: self.stream,
            "default_stream": lambda device=None: self._streams[0],
            "stream": self._choose,
            "Stream": self._make_stream,
            "Event": lambda **_: Event(self.waits, self.stream),
        }

    def _synchronize(self, device: Any = None) -> None:
        self.waits.note("synchronize")
        for stream in self._streams:
            stream._deliver()

    def _make_stream(self, device: Any = None, priority: int = 0) -> Stream:
        self._streams.append(Stream(self.waits))
        return self._streams[-1]

    @contextmanager
    def _choose(self, stream: Stream | None) -> Generator[None]:
        before, self._chosen.stream = self.stream, stream or self.stream
        try:
            yield
        finally:
            self._chosen.stream = before


@contextmanager
def pretend_cuda() -> Generator[HostWaits]:
    """Inside, there is a `cuda:0`, for this thread and for all that start meanwhile.

    Gives the log of what the host waited for.
    """
    runtime = Runtime()
    run = threading.Thread.run

    def run_pretending(thread: threading.Thread) -> None:
        with runtime.mode():
            run(thread)

    with (
        mock.patch.multiple(torch.cuda, **runtime.stand_ins()),
        mock.patch.object(threading.Thread, "run", run_pretending),
        runtime.mode(),
    ):
        yield runtime.waits
