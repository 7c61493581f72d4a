"""Traces as OpenTelemetry's: the SDK's spans for its exporters, and OTLP's JSON.

OTLP in JSON differs from protobuf's own mapping: identities are hexadecimal, enumerations numbers
(https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding).
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Generator, Iterable, Mapping
from dataclasses import replace
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from pipelines.tracing.spans import Attributes, Span
from serve.tracing.parent import parent_in
from serve.tracing.recorder import Trace

SCOPE = "sluice"

_KINDS = {SpanKind.INTERNAL: 1, SpanKind.SERVER: 2, SpanKind.CLIENT: 3}
_CODES = {StatusCode.UNSET: 0, StatusCode.OK: 1, StatusCode.ERROR: 2}


def sdk_spans(trace: Trace) -> list[ReadableSpan]:
    """All spans of a trace, the root first.

    A span without an id is given one by its place, so that all outputs of a trace name it alike.
    """
    parent = None if trace.parent_id is None else _context(trace.trace_id, trace.parent_id)
    resource = Resource(dict(trace.resource))
    return list(_sdk_spans(trace.root, trace.trace_id, parent, resource, SpanKind.SERVER))


def to_json(spans: Iterable[ReadableSpan]) -> dict[str, Any]:
    """Spans as OTLP's `TracesData`, in their order; neighbours of one resource are together."""
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(resource.attributes)},
                "scopeSpans": [{"scope": {"name": SCOPE}, "spans": [_span(s) for s in of]}],
            }
            for resource, of in itertools.groupby(spans, key=lambda span: span.resource)
        ]
    }


def _sdk_spans(
    span: Span, trace_id: str, parent: SpanContext | None, resource: Resource, kind: SpanKind
) -> Generator[ReadableSpan]:
    context = _context(trace_id, span.id)
    yield ReadableSpan(
        name=span.name,
        context=context,
        parent=parent,
        resource=resource,
        attributes=dict(span.attributes),
        events=[Event(name, dict(attributes), at_ns) for name, at_ns, attributes in span.events],
        links=[link for header in span.links for link in _links(header)],
        kind=kind,
        status=Status(StatusCode.UNSET)
        if span.error is None
        else Status(StatusCode.ERROR, span.error),
        start_time=span.start_ns,
        end_time=span.end_ns,
        instrumentation_scope=InstrumentationScope(SCOPE),
    )
    for place, child in enumerate(span.children):
        named = child if child.id else replace(child, id=_id_of(span.id, place))
        yield from _sdk_spans(named, trace_id, context, resource, SpanKind.INTERNAL)


def _id_of(parent_id: str, place: int) -> str:
    return hashlib.blake2b(f"{parent_id}/{place}".encode(), digest_size=8).hexdigest()


def _context(trace_id: str, span_id: str) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=flags)


def _links(header: str) -> Generator[Link]:
    if (other := parent_in(header)) is not None:
        yield Link(_context(other.trace_id, other.span_id))


def _span(span: ReadableSpan) -> dict[str, Any]:
    context = span.get_span_context()
    assert context is not None
    assert span.start_time is not None
    assert span.end_time is not None
    status = {"code": _CODES[span.status.status_code]}
    if span.status.description:
        status["message"] = span.status.description  # pyright: ignore[reportArgumentType]
    found: dict[str, Any] = {
        "traceId": f"{context.trace_id:032x}",
        "spanId": f"{context.span_id:016x}",
        "name": span.name,
        "kind": _KINDS[span.kind],
        "startTimeUnixNano": str(span.start_time),
        "endTimeUnixNano": str(span.end_time),
        "attributes": _attributes(span.attributes or {}),
        "events": [
            {
                "name": event.name,
                "timeUnixNano": str(event.timestamp),
                "attributes": _attributes(event.attributes or {}),
            }
            for event in span.events
        ],
        "links": [
            {"traceId": f"{link.context.trace_id:032x}", "spanId": f"{link.context.span_id:016x}"}
            for link in span.links
        ],
        "status": status,
    }
    if span.parent is not None:
        found["parentSpanId"] = f"{span.parent.span_id:016x}"
    return found


def _attributes(attributes: Mapping[str, Any] | Attributes) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: object) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case _:
            return {"stringValue": str(value)}
