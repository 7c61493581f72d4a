"""Arrivals by offered load, in engine seconds.

Load 1.0 is one second of engine work per second: the steps of all images, each at its share of a
tick packed to the knee (`CostSurface.share`), over the window. Admissions, the loop and ticks that
are not full come on top, so that one engine is full somewhat before load 1.0.

A load for several replicas is several streams of arrivals, each of users of its own from another
busy hour of the trace: more users are less bursty together. That they all come and go with the time
of day is not in it. Deadlines are multiples of the solo time: what the simulated engine takes for
the request alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from heapq import merge

from benchmarks.requests import Size
from benchmarks.simulation import EngineModel, Request, replay
from benchmarks.trace import (
    DEADLINE_SLACK_S,
    LOOSE,
    TIGHT,
    Arrival,
    Kind,
    TraceRow,
    arrivals,
)
from pipelines.catalog import ModelSpec
from pipelines.families import family_of

_MOST_STREAMS = 1000


class OfferedLoad:
    """Draws arrivals for engines like `model` that serve `spec`.

    `scale` is how many times as large its pictures are as `MIXED_SIZES`: 8 for FLUX.1.
    """

    def __init__(
        self, trace: Sequence[TraceRow], model: EngineModel, spec: ModelSpec, *, scale: int = 1
    ) -> None:
        self._trace = trace
        self._model = model
        self._spec = spec
        self._scale = scale
        self._solo_s: dict[Kind, float] = {}
        self._streams: dict[tuple[float, float, int], list[Request]] = {}

    def arrivals(self, load: float, *, seconds: float, seed: int) -> list[Arrival]:
        """One stream of about `seconds`."""
        drawn = arrivals(
            self._trace,
            seed=seed,
            load=load,
            window_s=seconds,
            solo=lambda kind: self._request(self._scaled(kind)).engine_s(self._model.cost),
            default_steps=self._spec.num_inference_steps,
        )
        return [self._with_deadline(self._enlarged(arrival)) for arrival in drawn]

    def requests(self, load: float, *, streams: int, seconds: float, seed: int) -> list[Request]:
        """`streams` streams of `load` each, for the simulator."""
        drawn = [
            [
                replace(request, tenant=f"{stream}/{request.tenant}")
                for request in self._stream(load, seconds, seed * _MOST_STREAMS + stream)
            ]
            for stream in range(streams)
        ]
        return list(merge(*drawn, key=lambda request: request.at_s))

    def view(self, arrivals: Sequence[Arrival]) -> list[Request]:
        """What the simulator knows of arrivals."""
        return [
            replace(
                self._request(_kind(arrival)),
                at_s=arrival.at_s,
                deadline_s=arrival.deadline_s,
                tenant=arrival.tenant,
            )
            for arrival in arrivals
        ]

    def _stream(self, load: float, seconds: float, seed: int) -> list[Request]:
        """Kept, as the streams of a few replicas are also the first of those of many."""
        key = (load, seconds, seed)
        if key not in self._streams:
            self._streams[key] = self.view(self.arrivals(load, seconds=seconds, seed=seed))
        return self._streams[key]

    def _scaled(self, kind: Kind) -> Kind:
        size = Size(self._scale * kind.size.width, self._scale * kind.size.height)
        return kind._replace(size=size)

    def _enlarged(self, arrival: Arrival) -> Arrival:
        size = self._scaled(_kind(arrival)).size
        return replace(arrival, width=size.width, height=size.height)

    def _with_deadline(self, arrival: Arrival) -> Arrival:
        kind = _kind(arrival)
        if kind not in self._solo_s:
            alone = replay([self._request(kind)], self._model, policy="fifo")
            self._solo_s[kind] = alone.latencies_s[0]
        solo_s = self._solo_s[kind]
        factor = TIGHT if arrival.is_tight else LOOSE
        return replace(arrival, solo_s=solo_s, deadline_s=factor * solo_s + DEADLINE_SLACK_S)

    def _request(self, kind: Kind) -> Request:
        family = family_of(self._spec)
        image_tokens = family.image_tokens(kind.size.height, kind.size.width)
        return Request(
            at_s=0.0,
            deadline_s=float("inf"),
            tenant="",
            num_images=kind.n,
            segments=(image_tokens + family.text_tokens(self._spec),),
            num_steps=kind.steps,
        )


def _kind(arrival: Arrival) -> Kind:
    return Kind(Size(arrival.width, arrival.height), arrival.steps, arrival.n)
