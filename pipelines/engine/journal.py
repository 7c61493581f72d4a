"""Journal: what the engine did for one work, as spans.

    denoise.wait     from its submission to its first tick
    denoise.run      a stretch of ticks, one after the other, each of which stepped it
    denoise.paused   between two stretches: others were stepped, and it was not

Some ticks are spans of their own inside a stretch, and name the requests that were in them. One
thread, the engine's, writes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from pipelines.tracing.spans import Attribute, Event, Span, Spans, named


class TickRecord(NamedTuple):
    """A tick that ran: its number, its times, what was packed, and the `traceparent`s in it.

    Those of works without a trace are "".
    """

    number: int
    start_ns: int
    end_ns: int
    tokens: int
    segments: int
    traces: tuple[str, ...]

    @property
    def attributes(self) -> dict[str, Attribute]:
        return named(
            {
                "tick": self.number,
                "tick_tokens": self.tokens,
                "tick_segments": self.segments,
                "tick_images": len(self.traces),
            }
        )


@dataclass(slots=True)
class _Stretch:
    first: TickRecord
    last: TickRecord
    first_step: int
    steps: int = 0
    images: int = 0
    tokens: int = 0
    ticks: list[Span] = field(default_factory=list[Span])
    events: list[Event] = field(default_factory=list[Event])

    def span(self) -> Span:
        return Span(
            name="denoise.run",
            start_ns=self.first.start_ns,
            end_ns=self.last.end_ns,
            attributes=named(
                {
                    "step_first": self.first_step,
                    "step_last": self.first_step + self.steps - 1,
                    "tick_first": self.first.number,
                    "tick_last": self.last.number,
                    "images_per_tick": round(self.images / self.steps, 2),
                    "tokens_per_tick": round(self.tokens / self.steps, 1),
                }
            ),
            events=tuple(self.events),
            children=tuple(self.ticks),
        )


class Journal:
    """Of a work that was submitted at `submitted_ns`, Unix; every `tick_every`-th tick is kept."""

    def __init__(self, submitted_ns: int, *, trace: str, tick_every: int) -> None:
        self._submitted_ns = submitted_ns
        self._trace = trace
        self._tick_every = tick_every
        self._stretches: list[_Stretch] = []

    def ticked(self, tick: TickRecord, *, step: int) -> None:
        """It did its step number `step`, from 1, in `tick`."""
        if not self._stretches or self._stretches[-1].last.number + 1 != tick.number:
            self._stretches.append(_Stretch(tick, tick, step))
        stretch = self._stretches[-1]
        stretch.last = tick
        stretch.steps += 1
        stretch.images += len(tick.traces)
        stretch.tokens += tick.tokens
        if tick.number % self._tick_every == 0:
            others = tuple({trace for trace in tick.traces if trace and trace != self._trace})
            stretch.ticks.append(
                Span(
                    name="tick",
                    start_ns=tick.start_ns,
                    end_ns=tick.end_ns,
                    attributes=tick.attributes,
                    links=others,
                )
            )

    def checkpointed(self, *, step: int, at_ns: int) -> None:
        """Its state after `step` was handed out."""
        if self._stretches:
            self._stretches[-1].events.append(Event("checkpoint", at_ns, named({"step": step})))

    def spans(self, *, with_ticks: bool = True) -> Spans:
        """All so far, in order."""
        found: list[Span] = []
        reached, name = self._submitted_ns, "denoise.wait"
        for stretch in self._stretches:
            run = stretch.span()
            found.append(Span(name=name, start_ns=reached, end_ns=run.start_ns))
            found.append(run if with_ticks else _without_parts(run))
            reached, name = run.end_ns, "denoise.paused"
        return tuple(found)


def _without_parts(span: Span) -> Span:
    return Span(
        name=span.name,
        start_ns=span.start_ns,
        end_ns=span.end_ns,
        attributes=span.attributes,
        events=span.events,
    )
