"""TraceStore: the latest traces of one ingress replica, so that no collector is needed to look."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import NamedTuple

from serve.tracing.recorder import Trace
from serve.tracing.sizes import span_bytes

MAX_REQUESTS = 100
"""Requests of one trace that are kept: a client may send one `traceparent` for ever."""


class TraceStore:
    """Keeps up to `max_spans` spans and about `max_bytes` bytes, of whole requests, the latest.

    Of one trace the latest `MAX_REQUESTS` requests. For one event loop.
    """

    def __init__(self, max_spans: int, max_bytes: int) -> None:
        self._max_spans = max_spans
        self._max_bytes = max_bytes
        self._num_spans = 0
        self._num_bytes = 0
        self._traces: OrderedDict[str, deque[_Kept]] = OrderedDict()

    def close(self) -> None:
        """It keeps traces for itself: there is nobody to hand them over to."""

    def put(self, trace: Trace) -> None:
        """Keep it; several requests may be of one trace of their client's."""
        requests = self._traces.setdefault(trace.trace_id, deque())
        self._traces.move_to_end(trace.trace_id)
        kept = _Kept(trace, trace.num_spans, span_bytes(trace.root))
        requests.append(kept)
        self._num_spans += kept.num_spans
        self._num_bytes += kept.num_bytes
        if len(requests) > MAX_REQUESTS:
            self._forget(requests.popleft())
        while self._is_full() and len(self._traces) > 1:
            for oldest in self._traces.popitem(last=False)[1]:
                self._forget(oldest)
        while self._is_full() and len(requests) > 1:
            self._forget(requests.popleft())

    def get(self, trace_id: str) -> list[Trace]:
        """The requests of that trace, in the order in which they ended; none if it is not kept."""
        return [kept.trace for kept in self._traces.get(trace_id, ())]

    def latest(self) -> Iterator[Trace]:
        """All, the one that ended last first."""
        for requests in reversed(self._traces.values()):
            for kept in reversed(requests):
                yield kept.trace

    def __len__(self) -> int:
        return len(self._traces)

    def _is_full(self) -> bool:
        return self._num_spans > self._max_spans or self._num_bytes > self._max_bytes

    def _forget(self, kept: _Kept) -> None:
        self._num_spans -= kept.num_spans
        self._num_bytes -= kept.num_bytes


class _Kept(NamedTuple):
    trace: Trace
    num_spans: int
    num_bytes: int
