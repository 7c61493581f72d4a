"""FLUX.1-dev's shape on one GPU: our step against diffusers', batches, attention back ends.

    python -m benchmarks.gpu [--save] [--minutes 8]
    python -m benchmarks.gpu --tiny          the same code, with a tiny model on the CPU

Random weights (11.9 B, bfloat16), 512 text tokens. First single requests at 256, 512, 768 and 1024
pixels: diffusers' forward, eager and with `compile_repeated_blocks` (compiled anew for every size,
its best case), and the packed forward, eager, compiled (once for all sizes), and with modulation
computed at every step instead of at admission. Then packed batches of 1 to 8 equal and of mixed
sizes, with every attention back end, beside the same requests one by one. What cannot be measured
(out of memory, a missing package, no time left) is a point with its reason.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import NamedTuple

import torch
from diffusers import FluxTransformer2DModel

from benchmarks.alternation import FAILURES, Step, Timing, alternate, reason
from benchmarks.random_flux import (
    DEV,
    TINY,
    FluxShape,
    Request,
    diffusers_step,
    draw_requests,
    one_by_one,
    packed_step,
    random_transformer,
    step_flops,
    twin_of,
)
from benchmarks.report import device_name, print_json, print_table, save_json, spread
from pipelines.packing.attention import BACKENDS
from pipelines.ragged import PackedFlux

PEAK_TFLOPS = {
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "H200": 989,
    "A100": 312,
    "L40S": 362,
    "4090": 165,
}
"""Dense bfloat16 peak in TFLOP/s by part of the device's name, from NVIDIA's data sheets; the first
that fits counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured, most important first: single requests of `sides`, then `batches`."""

    shape: FluxShape
    sides: tuple[int, ...]
    batches: tuple[tuple[int, ...], ...]
    rounds: int
    compiler: str


FULL = Plan(
    shape=DEV,
    sides=(1024, 512, 256, 768),
    batches=(
        (256, 512, 768, 1024),
        *((side,) * count for count in (8, 4, 2) for side in (256, 512, 768, 1024)),
        (1024, 256, 256, 256),
        (512, 512, 1024),
        (256, 512) * 4,
    ),
    rounds=10,
    compiler="inductor",
)
SMALL = Plan(
    shape=TINY, sides=(64, 48), batches=((32, 48, 64), (32, 32)), rounds=3, compiler="eager"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One way to step the requests of `sides` (pixels) together, or the reason why it failed.

    `ms` is the median, `low_ms` and `high_ms` the quartiles. `share_of_limit` is the step's
    arithmetic at the device's peak over its time. The rest is as in `alternation.Timing`.
    """

    sides: tuple[int, ...]
    way: str
    ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    share_of_limit: float | None = None
    first_s: float | None = None
    peak_gib: float | None = None
    difference: float | None = None
    failure: str | None = None


class Programs(NamedTuple):
    """What is compared, over one set of weights; `packed` and `compiled` by attention back end.

    `failures` has the reasons for those that could not be made.
    """

    diffusers: FluxTransformer2DModel
    diffusers_compiled: FluxTransformer2DModel
    packed: Mapping[str, PackedFlux]
    compiled: Mapping[str, PackedFlux]
    failures: Mapping[str, str]


Ways = dict[str, Callable[[], Step]]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU")
    parser.add_argument("--minutes", type=float, default=8.0, help="begin nothing after these")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/gpu-*.json")
    options = parser.parse_args(arguments)
    if not options.tiny and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --tiny runs the same code on the CPU")
    device = torch.device("cpu" if options.tiny else "cuda")
    name = "cpu" if options.tiny else torch.cuda.get_device_name()
    points: list[Point] = []
    deadline = time.monotonic() + 60 * options.minutes
    for group in measure(SMALL if options.tiny else FULL, device, peak_flops(name), deadline):
        points += group
        print_points(group)
        if options.save:  # After each group: a run that is cut short leaves what it has.
            save_json(
                "gpu", summary(name, points), device="tiny" if options.tiny else device_name()
            )
    if peak_flops(name) is None:
        print(f"unknown device {name!r}: its peak is not in PEAK_TFLOPS, so no share of the limit")
    print_json(summary(name, points))


def summary(name: str, points: Sequence[Point]) -> dict[str, object]:
    """The last line: {"device", "torch", "points"}."""
    return {"device": name, "torch": torch.__version__, "points": [asdict(p) for p in points]}


def peak_flops(name: str) -> float | None:
    """The dense bfloat16 peak of the device of this name in FLOP/s, where it is known."""
    return next((1e12 * peak for part, peak in PEAK_TFLOPS.items() if part in name), None)


def measure(
    plan: Plan, device: torch.device, peak: float | None, deadline: float
) -> Iterator[list[Point]]:
    """One group of points after the other: what could not be made, singles, batches."""
    programs = make_programs(plan, device)
    if programs.failures:
        yield [Point(sides=(), way=way, failure=why) for way, why in programs.failures.items()]
    groups = [(single_ways, (side,)) for side in plan.sides]
    groups += [(batch_ways, sides) for sides in plan.batches]
    for ways, sides in groups:
        try:
            requests = draw_requests(plan.shape, sides, programs.packed["sdpa"])
        except FAILURES as error:
            yield [Point(sides=sides, way="all", failure=reason(error))]
            continue
        timings = alternate(
            ways(programs, requests), device=device, rounds=plan.rounds, deadline=deadline
        )
        flops = step_flops(programs.diffusers.config, [sum(r.shape) for r in requests])
        limit_ms = 1000 * flops / peak if peak else None
        yield [make_point(sides, way, timing, limit_ms) for way, timing in timings.items()]


def make_programs(plan: Plan, device: torch.device) -> Programs:
    """Everything over one set of weights. Raises where diffusers or eager "sdpa" cannot be made."""
    transformer = random_transformer(plan.shape, device, torch.bfloat16)
    packed = {"sdpa": PackedFlux(transformer)}
    compiled: dict[str, PackedFlux] = {}
    failures: dict[str, str] = {}
    for name in BACKENDS:
        try:
            packed[name] = PackedFlux(transformer, attention=name)
            compiled[name] = PackedFlux(
                transformer, attention=name, compile=True, compiler=plan.compiler
            )
        except FAILURES as error:
            failures[f"packed, compiled, {name}"] = reason(error)
    # Made last: the packed forward has rearranged the weights, and the twin must share them.
    twin = twin_of(transformer)
    twin.compile_repeated_blocks(fullgraph=True, dynamic=False, backend=plan.compiler)
    return Programs(transformer, twin, packed, compiled, failures)


def single_ways(programs: Programs, requests: Sequence[Request]) -> Ways:
    """Diffusers' forward and ours, each eager and compiled; modulation hoisted and not."""
    ways: Ways = {
        "diffusers, eager": partial(diffusers_step, programs.diffusers, requests),
        "diffusers, compiled": partial(diffusers_step, programs.diffusers_compiled, requests),
        "packed, eager, sdpa": partial(packed_step, programs.packed["sdpa"], requests),
        "packed, eager, sdpa, modulation each step": partial(
            packed_step, programs.packed["sdpa"], requests, hoisted=False
        ),
    }
    for name, flux in programs.compiled.items():
        ways[f"packed, compiled, {name}"] = partial(packed_step, flux, requests)
    if flux := programs.compiled.get("sdpa"):
        ways["packed, compiled, sdpa, modulation each step"] = partial(
            packed_step, flux, requests, hoisted=False
        )
    return ways


def batch_ways(programs: Programs, requests: Sequence[Request]) -> Ways:
    """One packed step with each back end, compiled where that works; and one by one."""
    kind, by_name = "compiled", programs.compiled
    if "sdpa" not in by_name:
        kind, by_name = "eager", programs.packed
    ways: Ways = {f"one by one, {kind}, sdpa": partial(one_by_one, by_name["sdpa"], requests)}
    for name, flux in by_name.items():
        ways[f"packed, {kind}, {name}"] = partial(packed_step, flux, requests)
    return ways


def make_point(sides: tuple[int, ...], way: str, timing: Timing, limit_ms: float | None) -> Point:
    """A timing as a point; a step at the device's limit would take `limit_ms`."""
    point = partial(
        Point,
        sides=sides,
        way=way,
        first_s=timing.first_s,
        peak_gib=timing.peak_gib,
        difference=timing.difference,
        failure=timing.failure,
    )
    if timing.failure or len(timing.ms) < 2:
        return point()
    middle, low, high = spread(timing.ms)
    return point(
        ms=middle, low_ms=low, high_ms=high, share_of_limit=limit_ms / middle if limit_ms else None
    )


def print_points(points: Sequence[Point]) -> None:
    """A table of one group; the ratio is to its first way."""
    first = points[0].ms
    print_table(
        " + ".join(str(side) for side in points[0].sides) or "not made",
        ["way", "ms (quartiles)", "first / this", "of the limit", "peak GiB", "difference"],
        [
            (p.way, p.failure or "not measured", "", "", "", "")
            if p.ms is None
            else (
                p.way,
                f"{p.ms:.2f} ({p.low_ms:.2f} to {p.high_ms:.2f})",
                "" if first is None else f"{first / p.ms:.2f}",
                "" if p.share_of_limit is None else f"{100 * p.share_of_limit:.0f} %",
                "" if p.peak_gib is None else f"{p.peak_gib:.1f}",
                "" if p.difference is None else f"{p.difference:.1e}",
            )
            for p in points
        ],
    )


if __name__ == "__main__":
    main()
