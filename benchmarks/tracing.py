"""What tracing costs: images per second without, with every tenth request traced, and with all.

    python -m benchmarks.tracing [--rounds 4] [--seconds 12] [--in-flight 16] [--save]

The sides alternate within each round, on one server each, so that a machine that changes changes
for all. Requests are one image of 64x64, the cheapest there is: what a request costs weighs most.
Traces are kept in the server's store; those of `on` are written to a file as well after the timing
has ended, and from them comes how much of a request's time its leaf spans cover.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from benchmarks.exactness import quiet
from benchmarks.load import HttpClient, closed_loop, steady_rate
from benchmarks.report import device_name, print_json, print_table, save_json, spread
from benchmarks.requests import bodies, square
from benchmarks.servers import add_server_arguments, pin, start_sluice, warm_up
from serve.child_server import ChildServer

SIDES: Mapping[str, Mapping[str, str]] = {
    "off": {"tracing.enabled": "false"},
    "10pct": {"tracing.sample_ratio": "0.1"},
    "on": {"tracing.sample_ratio": "1"},
}

_SIZES = ((square(64), 1.0),)
_COVERED = 200
"""Traces of the `on` side whose coverage is looked at."""


def main() -> None:
    arguments = _arguments()
    quiet()
    pin(arguments.cores)
    servers: dict[str, ChildServer] = {}
    try:
        for side, settings in SIDES.items():
            log = Path(f"output/tracing-{side}.log")
            servers[side] = start_sluice({**settings, **arguments.sluice}, log=log)
            bodies_ = itertools.islice(bodies(1, _SIZES), 40)
            warm_up(servers[side].url, list(bodies_), at_once=8)
        rates: dict[str, list[float]] = {side: [] for side in SIDES}
        for number in range(arguments.rounds):
            for side in _turned(list(SIDES), number):
                rate, trace_ids = asyncio.run(_measure(servers[side].url, number, arguments))
                rates[side].append(rate)
                if side == "on":
                    last = trace_ids
        covered = sorted(coverages(servers["on"].url, last[-_COVERED:]))
    finally:
        for server in servers.values():
            server.stop()
    _report(rates, covered, arguments)


def coverages(url: str, trace_ids: Iterable[str]) -> Iterator[float]:
    """Of each of these traces, as the server still has them."""
    with httpx.Client(base_url=url) as client:
        for trace_id in trace_ids:
            answer = client.get(f"/v1/traces/{trace_id}")
            if answer.status_code == httpx.codes.OK:
                yield coverage_of(spans_of(answer.json()))


def spans_of(otlp: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All spans of OTLP JSON, of one resource."""
    return otlp["resourceSpans"][0]["scopeSpans"][0]["spans"]


def coverage_of(spans: Sequence[Mapping[str, Any]]) -> float:
    """The share of the first span's time that those without parts cover.

    Ticks, of which a sample is kept, do not count: the stretch that they are part of does.
    """
    counted = [span for span in spans if span["name"] != "tick"]
    parents = {span.get("parentSpanId") for span in counted}
    start, end = (int(spans[0][f"{name}TimeUnixNano"]) for name in ("start", "end"))
    leaves = sorted(
        (int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"]))
        for span in counted
        if span["spanId"] not in parents
    )
    covered, reached = 0, start
    for low, high in leaves:
        covered += max(0, min(high, end) - max(low, reached))
        reached = max(reached, min(high, end))
    return covered / (end - start)


async def _measure(url: str, seed: int, arguments: argparse.Namespace) -> tuple[float, list[str]]:
    """Images per second, and the ids of the traces in the answers."""
    async with HttpClient(url) as client:
        outcomes = await closed_loop(
            client,
            bodies(1000 + seed, _SIZES),
            in_flight=arguments.in_flight,
            seconds=arguments.seconds,
        )
    failed = [outcome.status for outcome in outcomes if outcome.status != 200]
    if failed:
        raise RuntimeError(f"{url} answered {failed[0]}")
    rate = steady_rate(outcomes, in_flight=arguments.in_flight, seconds=arguments.seconds)
    return rate, [outcome.headers["x-trace-id"] for outcome in outcomes]


def _turned(sides: list[str], number: int) -> list[str]:
    """Each round begins with another side."""
    first = number % len(sides)
    return sides[first:] + sides[:first]


def _report(
    rates: Mapping[str, Sequence[float]], covered: Sequence[float], arguments: argparse.Namespace
) -> None:
    ratios = {
        side: spread([rate / off for rate, off in zip(rates[side], rates["off"], strict=True)])
        for side in SIDES
    }
    print_table(
        f"{arguments.rounds} rounds of {arguments.seconds:g} s, {arguments.in_flight} in flight",
        ("tracing", "images/s", "of off"),
        [(side, str(spread(rates[side])), str(ratios[side])) for side in SIDES],
    )
    values = {f"throughput_{side}": round(median(rates[side]), 3) for side in SIDES}
    values |= {
        "ratio_10pct": round(ratios["10pct"].median, 4),
        "ratio_on": round(ratios["on"].median, 4),
        "coverage_p50": round(median(covered), 4),
        "coverage_min": round(covered[0], 4),
    }
    if arguments.save:
        print(f"saved {save_json('tracing', values, device=device_name())}")
    print_json(values)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=12.0, help="of each block")
    parser.add_argument("--in-flight", type=int, default=16)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/")
    add_server_arguments(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
