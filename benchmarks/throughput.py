"""Images per second, saturated: `FluxPipeline` one by one, `@serve.batch` around it, and Sluice.

    python -m benchmarks.throughput [--quick] [--save]

One run in which the three take turns, block by block, on the same cores with the same weights:
(a) `FluxPipeline` in a process of its own, without HTTP; (b) `baselines/serve_batch.py` and (c)
Sluice, both over HTTP from a closed loop. Requests ask for one image each, no prompt comes twice,
every image becomes a base64 PNG, no side has a safety classifier. The servers that are not being
measured stay up; the CPU they use meanwhile is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import psutil

from benchmarks.baselines.one_by_one import OneByOne
from benchmarks.exactness import quiet
from benchmarks.load import HttpClient, closed_loop, steady_rate
from benchmarks.report import device_name, print_json, print_table, save_json, spread
from benchmarks.requests import MIXED_SIZES, Size, bodies, square
from benchmarks.servers import (
    add_server_arguments,
    cpu_seconds,
    pin,
    start_baseline,
    start_sluice,
    warm_up,
)
from pipelines.catalog import models
from serve.demo.child_server import ChildServer

DIFFUSERS, BASELINE, SLUICE = SIDES = ("diffusers", "serve_batch", "sluice")

CASES: Mapping[str, Sequence[tuple[Size, float]]] = {
    "64": [(square(64), 1.0)],
    "128": [(square(128), 1.0)],
    "256": [(square(256), 1.0)],
    "mixed": MIXED_SIZES,
}
QUICK_CASES = ("64", "mixed")

Bodies = Iterator[dict[str, object]]


class Block(NamedTuple):
    """Images per second of a side in its turn, and all images that it drew in it."""

    rate: float
    images: int


class Side(NamedTuple):
    """`draw` takes a side's turn; `cpu_s` is the CPU that its processes have used so far."""

    draw: Callable[[Bodies], Block]
    cpu_s: Callable[[], float]


class Round(NamedTuple):
    """By side: images per second, and CPU seconds per image of all its processes.

    `idle_cores` is the most CPU, in cores, that two idle sides used together.
    """

    rates: dict[str, float]
    cpu_s: dict[str, float]
    idle_cores: float


def main() -> None:
    arguments = _arguments()
    quiet()
    pin(arguments.cores)
    rounds: dict[str, list[Round]] = {}
    with ExitStack() as stack:
        sides = _start(stack, arguments)
        for case in arguments.cases:
            rounds[case] = [
                run_round(sides, CASES[case], number) for number in range(arguments.rounds)
            ]
    _report(rounds, arguments)


def run_round(sides: Mapping[str, Side], sizes: Sequence[tuple[Size, float]], number: int) -> Round:
    """One block of each side, all with the same requests; who is first changes with `number`."""
    first = number % len(SIDES)
    rates: dict[str, float] = {}
    cpu_s: dict[str, float] = {}
    idle_cores: list[float] = []
    for name in (*SIDES[first:], *SIDES[:first]):
        before, began = {other: side.cpu_s() for other, side in sides.items()}, time.perf_counter()
        block = sides[name].draw(bodies(number, sizes))
        seconds = time.perf_counter() - began
        used = {other: side.cpu_s() - before[other] for other, side in sides.items()}
        rates[name] = block.rate
        cpu_s[name] = used.pop(name) / block.images
        idle_cores.append(sum(used.values()) / seconds)
    return Round(rates, cpu_s, max(idle_cores))


def ratios(rounds: Sequence[Round], other: str) -> list[float]:
    """Sluice's images per second over another side's, round by round."""
    return [item.rates[SLUICE] / item.rates[other] for item in rounds]


def values_of(rounds: Mapping[str, Sequence[Round]]) -> dict[str, dict[str, Any]]:
    """The last line: medians of the rounds' ratios, and of images per second, by size."""
    return {
        **{
            f"sluice_over_{other}": {
                case: round(median(ratios(done, other)), 3) for case, done in rounds.items()
            }
            for other in (DIFFUSERS, BASELINE)
        },
        "images_per_s": _medians(rounds, SIDES, lambda item: item.rates),
        "cpu_s_per_image": _medians(rounds, (BASELINE, SLUICE), lambda item: item.cpu_s),
    }


def _medians(
    rounds: Mapping[str, Sequence[Round]],
    sides: Sequence[str],
    by_side: Callable[[Round], Mapping[str, float]],
) -> dict[str, dict[str, float]]:
    return {
        side: {
            case: round(median(by_side(item)[side] for item in done), 4)
            for case, done in rounds.items()
        }
        for side in sides
    }


def _start(stack: ExitStack, arguments: argparse.Namespace) -> dict[str, Side]:
    """All three, warmed up with every size."""
    spec = next(iter(models().values()))
    alone = [
        stack.enter_context(OneByOne(spec, threads=threads))
        for threads in sorted({1, len(arguments.cores)})
    ]
    baseline = start_baseline(arguments.baseline, log=Path("output/baseline.log"))
    stack.callback(baseline.stop)
    sluice = start_sluice(arguments.sluice, log=Path("output/sluice.log"))
    stack.callback(sluice.stop)
    for sizes in CASES.values():
        several = list(itertools.islice(bodies(-1, sizes), arguments.in_flight))
        for process in alone:
            process.draw(several, seconds=0.5)
        for server in (baseline, sluice):
            warm_up(server.url, several, at_once=arguments.in_flight)
    processes = [psutil.Process(process.pid) for process in alone]
    return {
        DIFFUSERS: Side(
            lambda requests: _draw_alone(alone, requests, arguments.seconds),
            lambda: sum(sum(process.cpu_times()[:2]) for process in processes),
        ),
        BASELINE: _served(baseline, arguments),
        SLUICE: _served(sluice, arguments),
    }


def _draw_alone(alone: Sequence[OneByOne], requests: Bodies, seconds: float) -> Block:
    """With one thread, then with as many as there are cores: the better of both counts."""
    several = list(itertools.islice(requests, 256))
    blocks = [process.draw(several, seconds=seconds / len(alone)) for process in alone]
    images = sum(block.images for block in blocks)
    return Block(max(block.images / block.seconds for block in blocks), images)


def _served(server: ChildServer, arguments: argparse.Namespace) -> Side:
    def draw(requests: Bodies) -> Block:
        return asyncio.run(
            saturate(server.url, requests, in_flight=arguments.in_flight, seconds=arguments.seconds)
        )

    return Side(draw, lambda: cpu_seconds(server))


async def saturate(url: str, requests: Bodies, *, in_flight: int, seconds: float) -> Block:
    """A server's turn. Raises RuntimeError when it fails a request."""
    async with HttpClient(url) as client:
        outcomes = await closed_loop(client, requests, in_flight=in_flight, seconds=seconds)
    failed = [item.status for item in outcomes if item.status != 200]
    if failed:
        raise RuntimeError(f"{url} failed {len(failed)} requests, the first with {failed[0]}")
    rate = steady_rate(outcomes, in_flight=in_flight, seconds=seconds)
    return Block(rate, sum(item.images for item in outcomes))


def _report(rounds: Mapping[str, Sequence[Round]], arguments: argparse.Namespace) -> None:
    rows = [
        (
            case,
            *(spread([item.rates[side] for item in done]) for side in SIDES),
            *(spread(ratios(done, other)) for other in (DIFFUSERS, BASELINE)),
        )
        for case, done in rounds.items()
    ]
    print_table(
        f"Images per second on {len(arguments.cores)} cores, {arguments.in_flight} in flight,"
        f" {arguments.rounds} rounds: median (quartiles)",
        ("size", "diffusers", "serve.batch", "Sluice", "/ diffusers", "/ serve.batch"),
        rows,
    )
    print_table(
        "CPU milliseconds per image, of all processes of a server",
        ("size", "serve.batch", "Sluice"),
        [
            (case, *(spread([1000 * item.cpu_s[side] for item in done]) for side in SIDES[1:]))
            for case, done in rounds.items()
        ],
    )
    idle = max(item.idle_cores for done in rounds.values() for item in done)
    print(f"two idle sides used at most {idle:.2f} cores together")
    print(f"diffusers: the better of 1 and {len(arguments.cores)} threads, in each block")
    print(f"serve.batch: {arguments.baseline}")
    print(f"Sluice: {arguments.sluice or 'default settings'}")
    print("mixed (assumed): " + ", ".join(f"{size} {share:.0%}" for size, share in MIXED_SIZES))
    values = values_of(rounds)
    if arguments.save:
        print(f"saved {save_json('throughput', values, device=device_name())}")
    print_json(values)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two sizes, two short rounds")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), help="all of them")
    parser.add_argument("--rounds", type=int, help="blocks of each side and size, at least 2")
    parser.add_argument("--seconds", type=float, help="of a block, at least")
    parser.add_argument("--in-flight", type=int, default=32, help="requests at any time")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/")
    add_server_arguments(parser)
    arguments = parser.parse_args()
    arguments.cases = arguments.cases or list(QUICK_CASES if arguments.quick else CASES)
    arguments.rounds = max(2, arguments.rounds or (2 if arguments.quick else 5))
    arguments.seconds = arguments.seconds or (5.0 if arguments.quick else 10.0)
    return arguments


if __name__ == "__main__":
    main()
