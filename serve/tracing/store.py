"""TraceStore: the latest traces of one ingress replica, so that no collector is needed to look."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from serve.tracing.recorder import Trace


class TraceStore:
    """Keeps up to `max_spans` spans, of whole requests, the latest. For one event loop."""

    def __init__(self, max_spans: int) -> None:
        self._max_spans = max_spans
        self._num_spans = 0
        self._traces: OrderedDict[str, list[Trace]] = OrderedDict()

    def close(self) -> None:
        """It keeps traces for itself: there is nobody to hand them over to."""

    def put(self, trace: Trace) -> None:
        """Keep it; several requests may be of one trace of their client's."""
        self._traces.setdefault(trace.trace_id, []).append(trace)
        self._traces.move_to_end(trace.trace_id)
        self._num_spans += trace.num_spans
        while self._num_spans > self._max_spans and len(self._traces) > 1:
            _, oldest = self._traces.popitem(last=False)
            self._num_spans -= sum(item.num_spans for item in oldest)
        # Whoever sends one `traceparent` for ever has the latest of its requests kept.
        requests = self._traces[trace.trace_id]
        while self._num_spans > self._max_spans and len(requests) > 1:
            self._num_spans -= requests.pop(0).num_spans

    def get(self, trace_id: str) -> list[Trace]:
        """The requests of that trace, in the order in which they ended; none if it is not kept."""
        return list(self._traces.get(trace_id, ()))

    def latest(self) -> Iterator[Trace]:
        """All, the one that ended last first."""
        for traces in reversed(self._traces.values()):
            yield from reversed(traces)

    def __len__(self) -> int:
        return len(self._traces)
