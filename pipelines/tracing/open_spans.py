"""Spans while they are under way, by this machine's clock."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager

from pipelines.errors import SluiceError
from pipelines.tracing.spans import Attribute, Event, Span, joined, lately, linked, named


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
        self, name: str, *, gaps: str | None = None, attempt_in: str = "", **attributes: Attribute
    ) -> Generator[OpenSpan]:
        """A part of it, as long as the body; an exception is noted and goes on.

        With `attempt_in`, a `traceparent` of the trace, it is linked to the last part of its name,
        as what was tried before.
        """
        child = OpenSpan(name, gaps=gaps)
        child.attributes.update(named(attributes))
        if attempt_in and (before := self._last_id(name)):
            child.links.append(linked(attempt_in, before))
        self._parts.append(child)
        try:
            yield child
        except asyncio.CancelledError:
            child.error = "cancelled"
            raise
        except BaseException as error:  # re-raised: whatever it is, the span says that it failed
            child.error = reason(error)
            raise
        finally:
            child.end()

    def _last_id(self, name: str) -> str:
        return next((part.id for part in reversed(self._parts) if part.name == name), "")

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
    """Why something failed, without what a prompt may have in it.

    An error that is none of `pipelines.errors` may have words for spans as its `span_error`.
    """
    if isinstance(error, SluiceError):
        return error.message
    return getattr(error, "span_error", type(error).__name__)
