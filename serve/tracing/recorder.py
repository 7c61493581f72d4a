"""Recorder: a trace for each request, from its first byte to the last of its answer.

The client's `traceparent` is continued, and its decision is kept: what it does not record is not
recorded here either, though its trace id still goes into logs and answers. Without one, a share of
the requests is recorded (`tracing.sample_ratio`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipelines.tracing.open_spans import OpenSpan
from pipelines.tracing.spans import Attributes, Span, no_attributes
from serve.settings.sections import TracingConfig
from serve.tracing.parent import Parent, is_chosen, new_trace_id, parent_in, traceparent

INGRESS = "ingress"
"""Time of a request in which no part of it ran: the event loop served others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A finished trace: `root` as recorded, under the client's span if there is a `parent_id`.

    `resource` says who recorded it, in OpenTelemetry's terms.
    """

    trace_id: str
    parent_id: str | None
    root: Span
    resource: Attributes = field(default_factory=no_attributes)

    @property
    def num_spans(self) -> int:
        return _count(self.root)


class Sink(Protocol):
    """Where finished traces go."""

    def put(self, trace: Trace) -> None:
        """Take it; must neither block nor raise."""
        ...

    def close(self) -> None:
        """Hand over what was taken, and end; blocks, for seconds at most."""
        ...


class RequestTrace:
    """One request's trace while it is under way."""

    def __init__(
        self, name: str, parent: Parent | None, *, is_recorded: bool, trace_id: str
    ) -> None:
        self.root = OpenSpan(name, gaps=INGRESS)
        self.trace_id = trace_id
        self.parent = parent
        self.is_recorded = is_recorded

    @property
    def response_header(self) -> str:
        """`traceresponse`: this request's own span."""
        return traceparent(self.trace_id, self.root.id, is_sampled=self.is_recorded)

    @property
    def job_trace(self) -> str:
        """For `GenerationJob.trace`: under what stages keep spans, "" if nobody records them."""
        return self.response_header if self.is_recorded else ""


class Recorder:
    """Begins and ends traces, and hands those that are recorded, by `resource`, to its sinks."""

    def __init__(
        self, config: TracingConfig, sinks: Sequence[Sink] = (), resource: Attributes | None = None
    ) -> None:
        self._config = config
        self._sinks = tuple(sinks)
        self._resource = resource or {}

    def begin(self, name: str, header: str | None) -> RequestTrace:
        """A request has come, with this `traceparent` if any."""
        parent = parent_in(header)
        trace_id = new_trace_id() if parent is None else parent.trace_id
        is_wanted = is_chosen(trace_id, self._config.sample_ratio)
        is_recorded = self._config.enabled and (is_wanted if parent is None else parent.is_sampled)
        return RequestTrace(name, parent, is_recorded=is_recorded, trace_id=trace_id)

    def go_on(self, name: str, trace_id: str, parent_id: str) -> RequestTrace:
        """More of a trace that was begun elsewhere, as a part of a span there."""
        trace_id = trace_id or new_trace_id()
        is_recorded = self.records(trace_id)
        parent = Parent(trace_id, parent_id, is_recorded)
        return RequestTrace(name, parent, is_recorded=is_recorded, trace_id=trace_id)

    def records(self, trace_id: str) -> bool:
        """Whether what is told of a trace that was begun elsewhere is recorded."""
        return self._config.enabled and is_chosen(trace_id, self._config.sample_ratio)

    def tell(self, trace_id: str, span: Span) -> None:
        """A span that is over, of a trace that was begun elsewhere and is recorded."""
        self._put(Trace(trace_id=trace_id, parent_id=None, root=span, resource=self._resource))

    def end(self, trace: RequestTrace) -> None:
        """The request is answered: its trace, if recorded, goes to every sink."""
        trace.root.end()
        if not trace.is_recorded:
            return
        self._put(
            Trace(
                trace_id=trace.trace_id,
                parent_id=None if trace.parent is None else trace.parent.span_id,
                root=trace.root.span(),
                resource=self._resource,
            )
        )

    def _put(self, trace: Trace) -> None:
        for sink in self._sinks:
            sink.put(trace)

    def close(self) -> None:
        """Have all sinks hand over what they have; blocks."""
        for sink in self._sinks:
            sink.close()


def _count(span: Span) -> int:
    return 1 + sum(map(_count, span.children))
