"""The groups in the order in which they are worth their time, and how one is run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from benchmarks.alternation import FAILURES, in_pairs, reason
from benchmarks.gpu import bits, ceilings, forwards, fp8, lora, stage_ticks
from benchmarks.gpu.bench import Bench, Case, Probe
from benchmarks.gpu.rows import Row, row_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """`cases` are laid out when the group's turn comes; `others` are rows made elsewhere."""

    name: str
    about: str
    cases: Callable[[Bench], Iterator[Case]]
    others: Callable[[Bench], Iterator[Row]] | None = None


GROUPS = (
    Group(name="ceilings", about="products, attention, copies, launches", cases=ceilings.cases),
    Group(
        name="eager",
        about="one large image: diffusers, and packed by attention back end",
        cases=forwards.eager,
    ),
    Group(
        name=bits.GROUP,
        about="alone and in a batch to the bit, without and with fixed cuBLAS workspaces",
        cases=bits.cases,
        others=bits.in_child,
    ),
    Group(name="mixed", about="four sizes in one forward, or one by one", cases=forwards.mixed),
    Group(name="compiled", about="packed, compiled: one and mixed", cases=forwards.compiled),
    Group(name="small", about="small images, 1 to 8, and CUDA graphs", cases=forwards.small),
    Group(
        name="ticks",
        about="of a denoiser stage: cost surface, knee, share of the host",
        cases=stage_ticks.cases,
    ),
    Group(name="fp8", about="products in FP8, scaled by row", cases=fp8.cases),
    Group(name="lora", about="adapters by a loop, or by grouped products", cases=lora.cases),
    Group(
        name="diffusers-compiled",
        about="diffusers, compiled for one size",
        cases=forwards.diffusers_compiled,
    ),
)


def run(group: Group, bench: Bench, peak: float | None, only: re.Pattern[str]) -> Iterator[Row]:
    """The rows of a group, each as soon as it is measured: those whose `group/case/way` has `only`
    in it. The first way of a case is the measure of the others, so it runs with any of them.
    """
    try:
        for case in group.cases(bench):
            wanted = _wanted(case, group, only)
            for row in _timed(wanted, bench, peak):
                yield replace(row, group=group.name, at_s=round(bench.clock.now(), 1))
            for probe in wanted.probes:
                row = _probed(probe, bench)
                yield replace(
                    row, group=group.name, case=case.name, at_s=round(bench.clock.now(), 1)
                )
    except FAILURES as error:  # of laying out a case: the model itself does not fit, say
        yield Row(group=group.name, case="all", way="the rest", failure=reason(error))
    if group.others and not bench.is_child and only.search(f"{group.name}/"):
        for row in group.others(bench):
            yield replace(row, at_s=round(bench.clock.now(), 1))


def _wanted(case: Case, group: Group, only: re.Pattern[str]) -> Case:
    def fits(name: str) -> bool:
        return bool(only.search(f"{group.name}/{case.name}/{name}"))

    ways = [way for way in case.ways if fits(way.name)]
    if case.is_contest and ways and ways[0] is not case.ways[0]:
        ways = [case.ways[0], *ways]
    return replace(case, ways=ways, probes=[probe for probe in case.probes if fits(probe.name)])


def _timed(case: Case, bench: Bench, peak: float | None) -> Iterator[Row]:
    contests = [case.ways] if case.is_contest else [[way] for way in case.ways]
    for ways in contests:
        timings = in_pairs(
            ways, device=bench.device, limit=bench.plan.limit, is_late=bench.clock.is_late
        )
        for way, timing in timings:
            if len(ways) == 1:
                timing.ratio = timing.difference = timing.same_bits = None
            flops = case.flops() if peak and timing.ms else None
            peak_ms = 1000 * flops / peak if flops and peak else None
            yield row_of(timing, peak_ms=peak_ms, group="", case=case.name, way=way.name)


def _probed(probe: Probe, bench: Bench) -> Row:
    row = Row(group="", case="", way=probe.name)
    if probe.needs_cuda and bench.device.type != "cuda":
        return replace(row, skipped="needs CUDA")
    if bench.clock.is_late():
        return replace(row, skipped="no time left")
    try:
        return replace(row, values=probe.run())
    except FAILURES as error:
        return replace(row, failure=reason(error))
