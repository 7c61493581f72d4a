"""Spans as plain values: what was done for a request, from when to when.

Stages make them beside their results, and they travel with those, so that whoever asked has the
whole tree: no collector, no parent to carry along, and nothing is lost with a replica but what it
was doing. The ingress gives them identities and exports them. Times are Unix nanoseconds of the
machine that did the work, so clocks must be synchronised (NTP).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

Attribute = str | int | float | bool
Attributes = Mapping[str, Attribute]

TRANSFER = "transfer"
"""Of time between stages: routing, Serve's own queues, serialisation, the network."""

_LEAST_GAP_NS = 100_000


def no_attributes() -> dict[str, Attribute]:
    """None, as a dataclass default."""
    return {}


class Event(NamedTuple):
    """Something that happened at `at_ns`, within a span."""

    name: str
    at_ns: int
    attributes: Attributes


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Something that took a while.

    `links` are `traceparent`s of others that it has to do with; `error` says why it failed; `id` is
    16 hexadecimal digits where others link to it, "" where it may be any.
    """

    name: str
    id: str = ""
    start_ns: int
    end_ns: int
    attributes: Attributes = field(default_factory=no_attributes)
    events: tuple[Event, ...] = ()
    links: tuple[str, ...] = ()
    error: str | None = None
    children: tuple[Span, ...] = ()


Spans = tuple[Span, ...]

Timings = Mapping[str, float]
"""Seconds by phase, such as {"encode_wait": 0.001, "encode": 0.004}; each stage adds its own."""


def no_timings() -> Timings:
    """The empty `Timings`, as a dataclass default."""
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """A result that tells what it took: seconds by phase, and spans where those are kept."""

    timings: Timings = field(default_factory=no_timings)
    spans: Spans = ()


def lately(name: str, seconds: float, *, end_ns: int, **attributes: Attribute) -> Span:
    """A span that ended at `end_ns`. Attributes are written with `_` for `.`, see `named`."""
    start_ns = end_ns - round(1e9 * seconds)
    return Span(name=name, start_ns=start_ns, end_ns=end_ns, attributes=named(attributes))


def named(attributes: Attributes) -> dict[str, Attribute]:
    """Attributes in the namespace `sluice`: `batch_size` becomes `sluice.batch_size`."""
    return {f"sluice.{name}": value for name, value in attributes.items()}


def tagged(spans: Iterable[Span], prefix: str, **attributes: Attribute) -> Spans:
    """The spans, those whose name has the prefix with these attributes as well, `named`."""
    more = named(attributes)
    return tuple(
        replace(span, attributes={**span.attributes, **more})
        if span.name.startswith(prefix)
        else span
        for span in spans
    )


def linked(traceparent: str, span_id: str) -> str:
    """The `traceparent` of another span of the same trace."""
    version, trace_id, _, flags = traceparent.split("-")
    return f"{version}-{trace_id}-{span_id}-{flags}"


def joined(span: Span, gaps: str) -> Span:
    """The span with parts named `gaps` where no other part is.

    Parts of other machines are kept within the span, as their clocks may be off.
    """
    parts = sorted(
        (within(part, span.start_ns, span.end_ns) for part in span.children),
        key=lambda part: part.start_ns,
    )
    found: list[Span] = []
    reached = span.start_ns
    for part in parts:
        if part.start_ns - reached > _LEAST_GAP_NS:
            found.append(Span(name=gaps, start_ns=reached, end_ns=part.start_ns))
        found.append(part)
        reached = max(reached, part.end_ns)
    if span.end_ns - reached > _LEAST_GAP_NS:
        found.append(Span(name=gaps, start_ns=reached, end_ns=span.end_ns))
    return replace(span, children=tuple(found))


def within(span: Span, start_ns: int, end_ns: int) -> Span:
    """The span and its parts, cut to these bounds."""
    start = min(max(span.start_ns, start_ns), end_ns)
    end = min(max(span.end_ns, start), end_ns)
    children = tuple(within(child, start, end) for child in span.children)
    return replace(span, start_ns=start, end_ns=end, children=children)
