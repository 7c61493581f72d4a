"""What tracing costs: images per second without, with every tenth request traced, and with all.

    python -m benchmarks.tracing [--rounds 40] [--seconds 4] [--in-flight 16] [--save]

The sides alternate within each round on one server, so that a machine that changes changes for all.
A `traceparent` says of each request whether it is recorded, and what is not recorded takes the very
path that all take without tracing (`tracing.enabled`). Processor time per image is told as well, as
it strays less on a shared machine. Requests are one image of 64x64, the cheapest there is: what a
request costs weighs most. The traces of `on`, as the server keeps them, tell how much of a
request's time their leaf spans cover.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx

from benchmarks.exactness import quiet
from benchmarks.load import Answer, HttpClient, closed_loop, steady_rate
from benchmarks.report import Spread, device_name, print_json, print_table, save_json, spread
from benchmarks.requests import bodies, square
from benchmarks.servers import add_server_arguments, cpu_seconds, pin, start_sluice, warm_up
from serve.tracing.parent import new_trace_id, traceparent

SIDES: Mapping[str, int | None] = {"off": None, "10pct": 10, "on": 1}
"""Of how many requests one is recorded; None for none."""

_SIZES = ((square(64), 1.0),)
_COVERED = 200
"""Traces of the `on` side whose coverage is looked at."""


def main() -> None:
    arguments = _arguments()
    quiet()
    pin(arguments.cores)
    server = start_sluice(arguments.sluice, log=Path("output/tracing.log"))
    try:
        bodies_ = itertools.islice(bodies(1, _SIZES), 40)
        warm_up(server.url, list(bodies_), at_once=8)
        rates: dict[str, list[float]] = {side: [] for side in SIDES}
        cpu_ms: dict[str, list[float]] = {side: [] for side in SIDES}
        seeds = itertools.count(1000)  # a prompt that comes again would be encoded already
        for number in range(arguments.rounds):
            for side in _turned(list(SIDES), number):
                used = cpu_seconds(server)
                rate, trace_ids = asyncio.run(_measure(server.url, side, next(seeds), arguments))
                rates[side].append(rate)
                cpu_ms[side].append(1e3 * (cpu_seconds(server) - used) / len(trace_ids))
                if side == "on":
                    last = trace_ids
        covered = sorted(coverages(server.url, last[-_COVERED:]))
    finally:
        server.stop()
    _report(rates, cpu_ms, covered, arguments)


class _Client(HttpClient):
    """Asks for one of `one_of` requests to be recorded."""

    def __init__(self, url: str, one_of: int | None) -> None:
        super().__init__(url)
        self._one_of = one_of
        self._numbers = itertools.count()

    async def post(
        self, path: str, body: Mapping[str, object], headers: Mapping[str, str] | None = None
    ) -> Answer:
        number = next(self._numbers)
        is_recorded = self._one_of is not None and number % self._one_of == 0
        parent = traceparent(new_trace_id(), "b" * 16, is_sampled=is_recorded)
        return await super().post(path, body, {**(headers or {}), "traceparent": parent})


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


async def _measure(
    url: str, side: str, seed: int, arguments: argparse.Namespace
) -> tuple[float, list[str]]:
    """Images per second, and the ids of the traces in the answers."""
    async with _Client(url, SIDES[side]) as client:
        outcomes = await closed_loop(
            client,
            bodies(seed, _SIZES),
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
    rates: Mapping[str, Sequence[float]],
    cpu_ms: Mapping[str, Sequence[float]],
    covered: Sequence[float],
    arguments: argparse.Namespace,
) -> None:
    ratios, cpu_ratios = _of_off(rates), _of_off(cpu_ms)
    means = {side: _mean_ratio(rates[side], rates["off"]) for side in SIDES}
    print_table(
        f"{arguments.rounds} rounds of {arguments.seconds:g} s, {arguments.in_flight} in flight",
        ("tracing", "images/s", "of off", "mean of off", "CPU ms an image", "of off"),
        [
            (
                side,
                str(spread(rates[side])),
                str(ratios[side]),
                str(means[side]),
                str(spread(cpu_ms[side])),
                str(cpu_ratios[side]),
            )
            for side in SIDES
        ],
    )
    values = {f"throughput_{side}": round(median(rates[side]), 3) for side in SIDES}
    values |= {
        "ratio_10pct": round(means["10pct"].median, 4),
        "ratio_10pct_low": round(means["10pct"].low, 4),
        "ratio_10pct_high": round(means["10pct"].high, 4),
        "ratio_on": round(means["on"].median, 4),
        "cpu_ratio_10pct": round(cpu_ratios["10pct"].median, 4),
        "cpu_ratio_on": round(cpu_ratios["on"].median, 4),
        "coverage_p50": round(median(covered), 4),
        "coverage_min": round(covered[0], 4),
    }
    if arguments.save:
        print(f"saved {save_json('tracing', values, device=device_name())}")
    print_json(values)


def _of_off(values: Mapping[str, Sequence[float]]) -> dict[str, Spread]:
    """Each side over `off`, round by round."""
    return {
        side: spread([value / off for value, off in zip(values[side], values["off"], strict=True)])
        for side in values
    }


def _mean_ratio(values: Sequence[float], off: Sequence[float]) -> Spread:
    """Of all rounds together, with the middle half of what other rounds might have given.

    Single rounds stray by more than what is looked for, so their ratios alone say little. The
    interval is a bootstrap's (Efron 1979): rounds are drawn anew, with replacement.
    """
    rng = random.Random(0)
    rounds = list(zip(values, off, strict=True))

    def ratio(chosen: Sequence[tuple[float, float]]) -> float:
        return sum(value for value, _ in chosen) / sum(value for _, value in chosen)

    drawn = [ratio(rng.choices(rounds, k=len(rounds))) for _ in range(2000)]
    low, _, high = quantiles(drawn, n=4)
    return Spread(ratio(rounds), low, high)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each block")
    parser.add_argument("--in-flight", type=int, default=16)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/")
    add_server_arguments(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
