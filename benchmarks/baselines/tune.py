"""Which settings of the `@serve.batch` baseline are best on this machine.

    python -m benchmarks.baselines.tune [--seconds 6]

One kind of setting after the other is varied, from the best so far: replicas and threads on the
cores there are, where the pipeline runs, batch size, wait. The best draws the most images per
second in a closed loop of mixed sizes; of those within `TIE` of it, the one that answers a single
request soonest.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.baselines.serve_batch import BaselineOptions
from benchmarks.exactness import quiet
from benchmarks.load import GENERATE, HttpClient
from benchmarks.report import print_json, print_table
from benchmarks.requests import MIXED_SIZES, bodies, square
from benchmarks.servers import add_server_arguments, pin, start_baseline, warm_up
from benchmarks.throughput import saturate

TIE = 0.03
_SMALL = [(square(64), 1.0)]
_SOLO_REQUESTS = 9


class Score(NamedTuple):
    """Images per second, saturated, of mixed sizes and of 64x64; seconds of a 64x64 one alone."""

    mixed: float
    small: float
    solo_s: float


def main() -> None:
    arguments = _arguments()
    quiet()
    pin(arguments.cores)
    scores: dict[BaselineOptions, Score] = {}
    best = arguments.baseline
    for changes in knobs(len(arguments.cores)):
        for change in changes:
            options = BaselineOptions.model_validate({**best.model_dump(), **change})
            if options not in scores:
                scores[options] = measure(options, arguments)
                print(f"{options}: {scores[options]}", flush=True)
        best = choose(scores)
    rows = [
        (
            *options.model_dump().values(),
            f"{score.mixed:.2f}",
            f"{score.small:.2f}",
            f"{1000 * score.solo_s:.0f}",
        )
        for options, score in sorted(scores.items(), key=lambda item: -item[1].mixed)
    ]
    names = (*BaselineOptions.model_fields, "mixed, images/s", "64x64, images/s", "one alone, ms")
    print_table(f"serve.batch on {len(arguments.cores)} cores", names, rows)
    print_json(best.model_dump())


def knobs(cores: int) -> list[list[dict[str, object]]]:
    """What is varied, kind by kind."""
    return [
        [
            {"replicas": 1, "threads": cores},
            {"replicas": cores, "threads": 1},
            {"replicas": 1, "threads": 1},
        ],
        [{"run": "thread", "batch_wait_timeout_s": wait} for wait in (0.02, 0.5)],
        [{"max_batch_size": size} for size in (1, 4, 8, 16, 32)],
        [{"batch_wait_timeout_s": wait} for wait in (0.0, 0.05, 0.2)],
    ]


def choose(scores: Mapping[BaselineOptions, Score]) -> BaselineOptions:
    """The soonest answer of those that draw about as many images per second as the best."""
    most = max(score.mixed for score in scores.values())
    good = {options: score for options, score in scores.items() if score.mixed >= most * (1 - TIE)}
    return min(good, key=lambda options: good[options].solo_s)


def measure(options: BaselineOptions, arguments: argparse.Namespace) -> Score:
    """Start it, load it, stop it."""
    server = start_baseline(options, log=Path("output/tune.log"))
    try:
        for sizes in (MIXED_SIZES, _SMALL):
            several = list(itertools.islice(bodies(-1, sizes), arguments.in_flight))
            warm_up(server.url, several, at_once=arguments.in_flight)
        solo_s = asyncio.run(_alone(server.url))
        mixed, small = (
            asyncio.run(
                saturate(
                    server.url,
                    bodies(0, sizes),
                    in_flight=arguments.in_flight,
                    seconds=arguments.seconds,
                )
            ).rate
            for sizes in (MIXED_SIZES, _SMALL)
        )
        return Score(mixed, small, solo_s)
    finally:
        server.stop()


async def _alone(url: str) -> float:
    taken: list[float] = []
    async with HttpClient(url) as client:
        for body in itertools.islice(bodies(1, _SMALL), _SOLO_REQUESTS):
            began = time.perf_counter()
            await client.post(GENERATE, body)
            taken.append(time.perf_counter() - began)
    return median(taken)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="of a closed loop, at least")
    parser.add_argument("--in-flight", type=int, default=32)
    add_server_arguments(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
