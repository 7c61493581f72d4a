"""Arrivals against a server: each as a request, and what became of it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from benchmarks.load import HttpClient, Outcome, closed_loop, open_loop, steady_rate
from benchmarks.record import Served
from benchmarks.requests import Size, body
from benchmarks.trace import Arrival

_SATURATED_S, _IN_FLIGHT = 30.0, 24
_ENCODED = re.compile(r"\bencode;dur=([\d.]+)")


async def replay(url: str, requests: Sequence[Arrival]) -> list[Served]:
    """Send each request when it is due; returns once all are answered."""
    async with HttpClient(url) as client:
        outcomes = await open_loop(
            client,
            [request.at_s for request in requests],
            lambda index, late_s: request_body(requests[index], late_s),
        )
    return [served(*pair) for pair in zip(requests, outcomes, strict=True)]


async def saturated(url: str, requests: Sequence[Arrival]) -> float:
    """Solo seconds per second of a server that always has `_IN_FLIGHT` of `requests`, in turn."""
    async with HttpClient(url) as client:
        outcomes = await closed_loop(
            client,
            (request_body(request, 0.0) for request in itertools.cycle(requests)),
            in_flight=_IN_FLIGHT,
            seconds=_SATURATED_S,
        )
    return steady_rate(
        outcomes,
        in_flight=_IN_FLIGHT,
        seconds=_SATURATED_S,
        weight=lambda outcome: requests[outcome.index % len(requests)].solo_s,
    )


def request_body(arrival: Arrival, late_s: float) -> dict[str, object]:
    """The JSON of one request that is sent `late_s` seconds after it was due."""
    remaining_s = max(arrival.deadline_s - late_s, 0.001)
    return body(
        arrival.prompt,
        size=Size(arrival.width, arrival.height),
        seed=arrival.seed,
        n=arrival.n,
        num_inference_steps=arrival.steps,
        user=arrival.tenant,
        deadline_ms=round(1000 * remaining_s),
    )


def served(arrival: Arrival, outcome: Outcome) -> Served:
    """One request and its fate.

    The baseline counts its encodes in `x-encodes`. Sluice's answers tell how long the request's
    encoding ran, 0 when it was kept from before, so one that two requests waited for counts twice.
    """
    if "x-encodes" in outcome.headers:
        encodes = float(outcome.headers["x-encodes"])
    else:
        ran = _ENCODED.search(outcome.headers.get("server-timing", ""))
        encodes = float(ran is not None and float(ran[1]) > 0)
    return Served(
        arrival=arrival,
        latency_s=outcome.latency_s,
        status=outcome.status,
        images=outcome.images,
        encodes=encodes,
    )
