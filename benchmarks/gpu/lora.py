"""Adapters of several requests in one packed product: a loop over segments, or one grouped product.

Shapes:  B adapters, one a segment    T tokens    r rank    A (B, r, k) and B (B, m, r) as LoRA's
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch.nn import functional

from benchmarks.alternation import Step, Way
from benchmarks.gpu.bench import Bench, Case
from benchmarks.gpu.ceilings import products
from pipelines.flux1.family import FAMILY as FLUX1


class Operands(NamedTuple):
    """`x` (T, k), weight (m, k), `down` (B, r, k), `up` (B, m, r), and where segments end."""

    x: torch.Tensor
    weight: torch.Tensor
    down: torch.Tensor
    up: torch.Tensor
    lengths: tuple[int, ...]
    ends: torch.Tensor


def cases(bench: Bench) -> Iterator[Case]:
    """The product that begins a single block, for segments of mixed and of small sizes."""
    plan = bench.plan
    _, _, inner, columns = products(bench)[1]
    for name, sides in (("mixed", plan.mixed), ("small", (plan.small,) * max(plan.counts))):
        operands = partial(_operands, bench, sides, inner, columns)
        yield Case(
            name=f"{len(sides)} adapters of rank {plan.lora_rank}, {name}",
            ways=[
                Way("loop over segments", partial(_loop, operands)),
                Way("grouped products", partial(_grouped, operands)),
                Way("no adapter", partial(_none, operands)),
            ],
        )


def _operands(bench: Bench, sides: tuple[int, ...], inner: int, columns: int) -> Operands:
    torch.manual_seed(0)
    plan = bench.plan
    lengths = tuple(plan.shape.text_tokens + FLUX1.image_tokens(side, side) for side in sides)
    rank, count = plan.lora_rank, len(sides)
    return Operands(
        x=bench.normal(sum(lengths), inner),
        weight=bench.normal(columns, inner) * inner**-0.5,
        down=bench.normal(count, rank, inner) * inner**-0.5,
        up=bench.normal(count, columns, rank) * rank**-0.5,
        lengths=lengths,
        ends=torch.tensor(lengths, device=bench.device).cumsum(0).to(torch.int32),
    )


def _none(operands: partial[Operands]) -> Step:
    x, weight, *_ = operands()
    return lambda: functional.linear(x, weight)


def _loop(operands: partial[Operands]) -> Step:
    x, weight, down, up, lengths, _ = operands()

    def step() -> torch.Tensor:
        out = functional.linear(x, weight)
        for part, rows, a, b in zip(out.split(lengths), x.split(lengths), down, up, strict=True):
            part.addmm_(functional.linear(rows, a), b.t())
        return out

    return step


def _grouped(operands: partial[Operands]) -> Step:
    x, weight, down, up, _, ends = operands()

    def step() -> torch.Tensor:
        hidden = functional.grouped_mm(x, down.transpose(1, 2), offs=ends)
        update = functional.grouped_mm(hidden, up.transpose(1, 2), offs=ends)
        return functional.linear(x, weight).add_(update)

    return step
