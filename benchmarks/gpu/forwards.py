"""One step of a FLUX.1 transformer: diffusers' forward and the packed one, eager and compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks.alternation import Step, Way
from benchmarks.gpu.bench import BY_OFFSETS, Bench, Case
from benchmarks.gpu.ceilings import pinned
from benchmarks.random_flux import diffusers_step, one_by_one, packed_step
from pipelines.flux1.transformer import PackedFlux

Sides = tuple[int, ...]


def eager(bench: Bench) -> Iterator[Case]:
    """One image, with every attention back end, and with modulation at every step."""
    sides = (bench.plan.side,)
    yield Case(
        name=_name(sides),
        ways=[
            Way("diffusers, eager", partial(_diffusers, bench, sides)),
            *_packed_ways(bench, sides),
            Way(
                "packed, sdpa, modulation each step",
                lambda: packed_step(bench.packed(), bench.requests(sides), hoisted=False),
            ),
        ],
        flops=bench.flops_of(sides),
    )


def mixed(bench: Bench) -> Iterator[Case]:
    """Four sizes in one forward, against one after the other."""
    sides = bench.plan.mixed
    yield Case(
        name=_name(sides),
        ways=[
            Way("one by one, sdpa", partial(_one_by_one, bench.packed, bench, sides)),
            *_packed_ways(bench, sides),
        ],
        flops=bench.flops_of(sides),
    )


def compiled(bench: Bench) -> Iterator[Case]:
    """One image and four sizes, compiled once for both."""
    for sides in ((bench.plan.side,), bench.plan.mixed):
        yield Case(
            name=_name(sides),
            ways=[
                Way("packed, eager, sdpa", partial(_packed, bench.packed, "sdpa", bench, sides)),
                *(
                    Way(
                        f"packed, compiled, {name}",
                        partial(_packed, bench.compiled, name, bench, sides),
                        needs_cuda=name != "sdpa",
                    )
                    for name in ("sdpa", *reversed(BY_OFFSETS))
                ),
                Way(
                    "one by one, compiled, sdpa",
                    partial(_one_by_one, bench.compiled, bench, sides),
                ),
            ],
            flops=bench.flops_of(sides),
        )


def small(bench: Bench) -> Iterator[Case]:
    """Images so small that launching them takes as long as computing them."""
    for count in bench.plan.counts:
        sides = (bench.plan.small,) * count
        yield Case(
            name=_name(sides),
            ways=[
                Way("one by one, eager", partial(_one_by_one, bench.packed, bench, sides)),
                Way("packed, eager", partial(_packed, bench.packed, "sdpa", bench, sides)),
                Way(
                    "packed, eager, CUDA graph",
                    partial(_graph, bench.packed, bench, sides),
                    needs_cuda=True,
                ),
                Way("packed, compiled", partial(_packed, bench.compiled, "sdpa", bench, sides)),
                Way(
                    "packed, compiled, CUDA graph",
                    partial(_graph, bench.compiled, bench, sides),
                    needs_cuda=True,
                ),
            ],
            flops=bench.flops_of(sides),
        )


def diffusers_compiled(bench: Bench) -> Iterator[Case]:
    """Diffusers' blocks compiled for this one size, its best case."""
    sides = (bench.plan.side,)
    yield Case(
        name=_name(sides),
        ways=[
            Way("diffusers, eager", partial(_diffusers, bench, sides)),
            Way("diffusers, compiled", lambda: diffusers_step(bench.twin(), bench.requests(sides))),
        ],
        flops=bench.flops_of(sides),
    )


def _name(sides: Sides) -> str:
    return " + ".join(str(side) for side in sides)


def _packed_ways(bench: Bench, sides: Sides) -> list[Way]:
    def held(kernel: str | None) -> Step:
        return pinned(kernel, packed_step(bench.packed(), bench.requests(sides)))

    return [
        Way("packed, sdpa, as torch chooses", partial(held, None)),
        Way("packed, sdpa, cuDNN", partial(held, "CUDNN_ATTENTION"), needs_cuda=True),
        Way("packed, sdpa, flash", partial(held, "FLASH_ATTENTION")),
        *(
            Way(f"packed, {name}", partial(_packed, bench.packed, name, bench, sides), True)
            for name in BY_OFFSETS
        ),
    ]


def _diffusers(bench: Bench, sides: Sides) -> Step:
    return diffusers_step(bench.transformer(), bench.requests(sides))


def _packed(program: Callable[[str], PackedFlux], name: str, bench: Bench, sides: Sides) -> Step:
    return packed_step(program(name), bench.requests(sides))


def _one_by_one(program: Callable[[str], PackedFlux], bench: Bench, sides: Sides) -> Step:
    return one_by_one(program("sdpa"), bench.requests(sides))


def _graph(program: Callable[[str], PackedFlux], bench: Bench, sides: Sides) -> Step:
    """A step that was recorded once and is replayed, in the memory that it was recorded with."""
    step = packed_step(program("sdpa"), bench.requests(sides))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(
        side
    ):  # what is chosen or allocated at a first call must not be recorded
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = step()

    def replay() -> torch.Tensor:
        graph.replay()
        return output

    return replay
