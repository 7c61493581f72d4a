"""Load that comes from nothing, in phases, and what of it is not yet done.

Pure but for the client: the same trace and seed give the same requests.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from benchmarks.autoscaling.paced import MODEL, solo_s, work_s
from benchmarks.load import HttpClient, Outcome, open_loop
from benchmarks.replay import request_body
from benchmarks.requests import square
from benchmarks.trace import Arrival, Kind, TraceRow, arrivals

TIGHT_S, LOOSE_S = 10.0, 30.0
"""A request is due after 1.5 times what its denoising takes alone and one of these, in turn."""

_FIRST = Kind(square(128), MODEL.num_inference_steps, 1)


class Phase(NamedTuple):
    """`load` seconds of work per second, each of one replica, for `seconds`."""

    seconds: float
    load: float


QUICK = (Phase(20, 0.0), Phase(20, 2.0))
FULL = (Phase(30, 0.0), Phase(30, 0.5), Phase(75, 3.0), Phase(45, 0.5))
"""Silence after the first request, a trickle, a burst and its end."""


def draw(trace: Sequence[TraceRow], phases: Sequence[Phase], *, seed: int) -> list[Arrival]:
    """One request at 0 s, and then those of `phases`, each with the gaps of a busy hour."""
    requests = [_first(seed)]
    begins_s = 0.0
    for number, (seconds, load) in enumerate(phases):
        if load:
            drawn = arrivals(
                trace,
                seed=100 * seed + number,
                load=load,
                window_s=seconds,
                solo=work_s,
                default_steps=MODEL.num_inference_steps,
            )
            requests += [replace(item, at_s=begins_s + item.at_s) for item in drawn]
        begins_s += seconds
    return [_due(item, TIGHT_S if item.is_tight else LOOSE_S) for item in requests]


def offered(phases: Sequence[Phase], at_s: float) -> float:
    """Seconds of work that come per second, `at_s` after the start."""
    for seconds, load in phases:
        if at_s < seconds:
            return load
        at_s -= seconds
    return 0.0


class Client:
    """Sends requests when they are due, and knows the work that is not yet answered."""

    def __init__(self, requests: Sequence[Arrival]) -> None:
        self._requests = requests
        self._open: dict[int, float] = {}
        self.began: float | None = None
        """When the first was sent, by `time.monotonic`."""

    @property
    def queued_s(self) -> float:
        """Seconds of work of one replica that were sent and are not answered yet; any thread."""
        return sum(list(self._open.values()))

    async def run(self, url: str) -> list[Outcome]:
        """All of them, in order, once the last is answered."""
        self.began = time.monotonic()

        def body(index: int, late_s: float) -> dict[str, object]:
            self._open[index] = self._requests[index].solo_s
            return request_body(self._requests[index], late_s)

        def answered(outcome: Outcome) -> None:
            self._open.pop(outcome.index, None)

        async with HttpClient(url) as client:
            due_s = [request.at_s for request in self._requests]
            return await open_loop(client, due_s, body, on_answer=answered)


def _first(seed: int) -> Arrival:
    return Arrival(
        at_s=0.0,
        tenant="first",
        n=_FIRST.n,
        steps=_FIRST.steps,
        width=_FIRST.size.width,
        height=_FIRST.size.height,
        prompt="a red circle",
        seed=seed,
        deadline_s=LOOSE_S,
        solo_s=work_s(_FIRST),
        is_tight=False,
    )


def _due(arrival: Arrival, slack_s: float) -> Arrival:
    kind = Kind(square(arrival.width), arrival.steps, arrival.n)
    return replace(arrival, deadline_s=1.5 * solo_s(kind) + slack_s)
