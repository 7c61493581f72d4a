"""A sample trace in OTLP's JSON: two images, shared ticks, a pause, a replica that was lost."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
STARTED_NS = 1_795_341_296_118_000_000
MS = 1_000_000

Attributes = Mapping[str, str | int | float | bool]


def others(number: int) -> str:
    """The trace id of another request."""
    return hashlib.md5(f"other {number}".encode()).hexdigest()


class TraceBuilder:
    """Spans with times in milliseconds from the start of the trace."""

    def __init__(self, trace_id: str = TRACE_ID, started_ns: int = STARTED_NS) -> None:
        self.trace_id = trace_id
        self.started_ns = started_ns
        self.spans: list[dict[str, Any]] = []

    def span(
        self,
        name: str,
        start: float,
        end: float,
        parent: str = "",
        attributes: Attributes | None = None,
        *,
        events: Sequence[tuple[str, float, Attributes]] = (),
        links: Sequence[tuple[str, str]] = (),
        error: str | None = None,
        kind: int = 1,
    ) -> str:
        """Adds a span, and returns its id."""
        span_id = f"{len(self.spans) + 1:016x}"
        span: dict[str, Any] = {
            "traceId": self.trace_id,
            "spanId": span_id,
            "name": name,
            "kind": kind,
            "startTimeUnixNano": self._at(start),
            "endTimeUnixNano": self._at(end),
            "attributes": pairs(attributes or {}),
            "events": [
                {"name": event, "timeUnixNano": self._at(at), "attributes": pairs(values)}
                for event, at, values in events
            ],
            "links": [
                {"traceId": trace_id, "spanId": linked, "attributes": []}
                for trace_id, linked in links
            ],
            "status": {"code": 0} if error is None else {"code": 2, "message": error},
        }
        if parent:
            span["parentSpanId"] = parent
        self.spans.append(span)
        return span_id

    def otlp(self) -> dict[str, Any]:
        """The trace."""
        return {
            "resourceSpans": [
                {
                    "resource": {"attributes": pairs({"service.name": "sluice"})},
                    "scopeSpans": [{"scope": {"name": "sluice"}, "spans": self.spans}],
                }
            ]
        }

    def _at(self, milliseconds: float) -> str:
        return str(self.started_ns + round(milliseconds * MS))


def pairs(attributes: Attributes) -> list[dict[str, Any]]:
    """As OTLP writes them."""
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: str | int | float | bool) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case _:
            return {"stringValue": value}


ROOT: Attributes = {
    "http.request.method": "POST",
    "http.route": "/v1/images/generations",
    "http.response.status_code": 200,
    "gen_ai.request.model": "flux.1-dev",
    "gen_ai.output.type": "image",
    "gen_ai.usage.input_tokens": 21,
    "gen_ai.usage.output_tokens": 8192,
    "sluice.request_id": "req-7c1f0e52a9",
    "sluice.tenant": "atelier",
    "sluice.size": "1024x1024",
    "sluice.steps": 28,
    "sluice.seed": 421,
    "sluice.outcome": "ok",
    "sluice.deadline_ms": 12_000,
    "sluice.deadline_met": True,
}


def sample(**root: str | int | float | bool) -> dict[str, Any]:
    """Two images; the first is paused twice, the second loses its replica and goes on elsewhere."""
    built = TraceBuilder()
    top = built.span("POST /v1/images/generations", 0, 10_412, attributes={**ROOT, **root}, kind=2)
    built.span("admit", 0.4, 6.1, top)
    first = built.span("image", 6.4, 9_655, top, {"sluice.image": 0})
    attempt = _attempt(built, first, 1, 6.6, 9_104)
    _encode(built, attempt, 7.9, cached=False)
    built.span("denoise.wait", 143, 210, attempt)
    _stretch(built, attempt, 210, 96, step=1, ticks=9, tick=4_101, sharing=3, replica="den-5k2p")
    built.span("denoise.paused", 1_074, 2_391, attempt)
    _stretch(
        built, attempt, 2_391, 248, step=10, ticks=12, tick=4_117, sharing=5, replica="den-5k2p"
    )
    built.span("denoise.paused", 5_367, 6_920, attempt)
    _stretch(
        built, attempt, 6_920, 311, step=22, ticks=7, tick=4_136, sharing=2, replica="den-5k2p"
    )
    _finish(built, first, 9_104, 9_655)
    second = built.span("image", 6.5, 10_404, top, {"sluice.image": 1})
    lost = _attempt(built, second, 1, 6.7, 4_260, error="Denoiser lost its replica")
    _encode(built, lost, 8.0, cached=True)
    built.span("denoise.wait", 31, 655, lost)
    _stretch(built, lost, 655, 262, step=1, ticks=12, tick=2_960, sharing=4, replica="den-x83n")
    again = _attempt(built, second, 2, 4_311, 9_902, start_step=8, links=[(built.trace_id, lost)])
    _encode(built, again, 4_312, cached=True)
    built.span("denoise.wait", 4_336, 4_702, again)
    _stretch(built, again, 4_702, 259, step=9, ticks=20, tick=4_127, sharing=3, replica="den-5k2p")
    _finish(built, second, 9_902, 10_404)
    built.span("respond", 10_405, 10_411.6, top)
    return built.otlp()


def large(spans: int) -> dict[str, Any]:
    """A trace of that many spans: many images of one stretch, and ticks."""
    built = TraceBuilder()
    top = built.span("POST /v1/images/generations", 0, 60_000, attributes=ROOT, kind=2)
    stretch = ""
    while len(built.spans) < spans:
        number = len(built.spans)
        if number % 40 == 1:
            image = built.span("image", number, 59_000, top, {"sluice.image": number // 40})
            stretch = built.span("denoise.run", number, 59_000, image, {"sluice.step_first": 1})
        else:
            at = number * 25.0
            links = [(others(number % 7), "00000000000000aa")]
            built.span("tick", at, at + 20, stretch, {"sluice.tick": number}, links=links)
    return built.otlp()


def _attempt(
    built: TraceBuilder,
    image: str,
    number: int,
    start: float,
    end: float,
    *,
    start_step: int = 0,
    links: Sequence[tuple[str, str]] = (),
    error: str | None = None,
) -> str:
    facts = {"sluice.attempt": number, "sluice.start_step": start_step}
    return built.span("denoise", start, end, image, facts, links=links, error=error)


def _encode(built: TraceBuilder, attempt: str, at: float, *, cached: bool) -> None:
    took = 4.0 if cached else 118.0
    built.span("transfer", at - 1.2, at, attempt)
    built.span("encode.wait", at, at + 9, attempt)
    built.span("encode.run", at + 9, at + 9 + took, attempt, {"sluice.cached": cached})
    built.span("transfer", at + 9 + took, at + 17 + took, attempt)


def _stretch(
    built: TraceBuilder,
    attempt: str,
    start: float,
    each: float,
    *,
    step: int,
    ticks: int,
    tick: int,
    sharing: int,
    replica: str,
) -> None:
    """Ticks of `each` milliseconds; every third is a span, shared with up to `sharing` others."""
    tokens = 4_608 * (sharing + 1)
    facts: Attributes = {
        "sluice.step_first": step,
        "sluice.step_last": step + ticks - 1,
        "sluice.tick_first": tick,
        "sluice.tick_last": tick + ticks - 1,
        "sluice.images_per_tick": sharing + 1.0,
        "sluice.tokens_per_tick": float(tokens),
        "sluice.replica": replica,
    }
    saved = [
        ("checkpoint", start + (done + 1) * each, {"sluice.step": step + done})
        for done in range(ticks)
        if (step + done) % 4 == 0
    ]
    run = built.span("denoise.run", start, start + ticks * each, attempt, facts, events=saved)
    for number in range(0, ticks, 3):
        at = start + number * each
        shared = range(tick + number, tick + number + max(1, sharing - number % 2))
        built.span(
            "tick",
            at,
            at + each,
            run,
            {
                "sluice.tick": tick + number,
                "sluice.tick_tokens": 4_608 * (len(shared) + 1),
                "sluice.tick_segments": len(shared) + 1,
                "sluice.tick_images": len(shared) + 1,
            },
            links=[(others(each_other // 3), "00000000000000aa") for each_other in shared],
        )


def _finish(built: TraceBuilder, image: str, start: float, end: float) -> None:
    finish = built.span("finish", start + 0.2, end, image)
    reached = start + 0.3
    for name, took, facts in (
        ("transfer", 7.1, {}),
        ("decode.wait", 38.2, {}),
        ("decode.run", 214.6, {"sluice.batch_size": 2}),
        ("transfer", 21.0, {}),
        ("safety.wait", 2.1, {}),
        ("safety.run", 46.7, {}),
        ("transfer", 11.3, {}),
        ("finish.wait", 0.9, {}),
        ("finish.run", 96.4, {}),
        ("store", 31.2, {}),
    ):
        built.span(name, reached, reached + took, finish, facts)
        reached += took
    built.span("transfer", reached, end, finish)
