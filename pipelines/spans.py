"""Spans as plain values: what was done for a request, from when to when.

Stages make them beside their results, and they travel with those, so that whoever asked has the
whole tree: no collector, no parent to carry along, and nothing is lost with a replica but what it
was doing. The ingress gives them identities and exports them. Times are Unix nanoseconds of the
machine that did the work, so clocks must be synchronised (NTP).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from pipelines.errors import SluiceError

Attribute = str | int | float | bool
Attributes = Mapping[str, Attribute]

TRANSFER = "transfer"
"""Of time between stages: routing, Serve's own queues, serialisation, the network."""

_LEAST_GAP_NS = 100_000


def _no_attributes() -> dict[str, Attribute]:
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
    attributes: Attributes = field(default_factory=_no_attributes)
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


def waited_and_ran(
    stage: str, waited_s: float, ran_s: float, **attributes: Attribute
) -> tuple[Span, Span]:
    """`<stage>.wait` and `<stage>.run` of a call that ends now, in seconds."""
    now = time.time_ns()
    run = lately(f"{stage}.run", ran_s, end_ns=now, **attributes)
    return lately(f"{stage}.wait", waited_s, end_ns=run.start_ns), run


class OpenSpan:
    """A span under way, to which parts are added. For one event loop.

    With `gaps`, the time that no part of it covers, once it has any, becomes parts of that name.
    """

    def __init__(self, name: str, *, gaps: str | None = None, start_ns: int | None = None) -> None:
        self.name = name
        self.id = secrets.token_hex(8)
        self.attributes: dict[str, Attribute] = {}
        self.error: str | None = None
        self.links: list[str] = []
        self._events: list[Event] = []
        self._gaps = gaps
        self._start_ns = time.time_ns() if start_ns is None else start_ns
        self._end_ns: int | None = None
        self._parts: list[OpenSpan | Span] = []

    @contextmanager
    def part(
        self, name: str, *, gaps: str | None = None, **attributes: Attribute
    ) -> Generator[OpenSpan]:
        """A part of it, as long as the body; an exception is noted and goes on."""
        child = OpenSpan(name, gaps=gaps)
        child.attributes.update(named(attributes))
        self._parts.append(child)
        try:
            yield child
        except asyncio.CancelledError:
            child.error = "cancelled"
            raise
        except BaseException as error:
            child.error = reason(error)
            raise
        finally:
            child.end()

    def add(self, spans: Iterable[Span]) -> None:
        """Parts that were made elsewhere."""
        self._parts.extend(spans)

    def event(self, name: str, **attributes: Attribute) -> None:
        """Something happens now."""
        self._events.append(Event(name, time.time_ns(), named(attributes)))

    def end(self) -> None:
        """It ends now, unless it has."""
        if self._end_ns is None:
            self._end_ns = time.time_ns()

    def span(self) -> Span:
        """As a value; what has not ended ends now."""
        end_ns = time.time_ns() if self._end_ns is None else self._end_ns
        parts = [part.span() if isinstance(part, OpenSpan) else part for part in self._parts]
        span = Span(
            name=self.name,
            id=self.id,
            start_ns=self._start_ns,
            end_ns=end_ns,
            attributes=dict(self.attributes),
            events=tuple(self._events),
            links=tuple(self.links),
            error=self.error,
            children=tuple(parts),
        )
        return joined(span, self._gaps) if self._gaps and parts else span


def reason(error: BaseException) -> str:
    """Why something failed, without what a prompt may have in it."""
    return error.message if isinstance(error, SluiceError) else type(error).__name__


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
