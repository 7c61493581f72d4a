"""Products in FP8 (e4m3), scaled by row, against bfloat16: with torch alone.

A scale for each row of the activations and for each output of the weight: the largest value becomes
448, the largest of e4m3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch.nn import functional

from benchmarks.alternation import Step, Way
from benchmarks.gpu.bench import Bench, Case
from benchmarks.gpu.ceilings import products

E4M3_MAX = 448.0


class Quantised(NamedTuple):
    """A tensor as `values` (n, k) in e4m3 times `scales` (n, 1) in float32."""

    values: torch.Tensor
    scales: torch.Tensor


def quantise(x: torch.Tensor) -> Quantised:
    """By row."""
    scales = (x.abs().amax(dim=-1, keepdim=True).float() / E4M3_MAX).clamp(min=1e-12)
    return Quantised((x.float() / scales).to(torch.float8_e4m3fn), scales)


def product(x: Quantised, weight: Quantised, bias: torch.Tensor) -> torch.Tensor:
    """x W^T + b in bfloat16."""
    row = functional.ScalingType.RowWise
    return functional.scaled_mm(
        x.values,
        weight.values.t(),
        x.scales,
        row,
        weight.scales.t(),
        row,
        bias=bias,
        output_dtype=torch.bfloat16,
    )


def cases(bench: Bench) -> Iterator[Case]:
    """Each product of a block."""
    for name, rows, inner, columns in products(bench)[1:]:
        operands = partial(_operands, bench, rows, inner, columns)
        yield Case(
            name=f"product {name}, {rows} x {inner} x {columns}",
            ways=[
                Way("bfloat16", partial(_plain, operands)),
                Way("FP8, both quantised before", partial(_before, operands)),
                Way("FP8, activations quantised in the step", partial(_within, operands, quantise)),
                Way("FP8, the same, compiled", partial(_compiled, operands, bench)),
            ],
            flops=lambda n=rows, k=inner, m=columns: 2.0 * n * k * m,
        )


Operands = Callable[[], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


def _operands(
    bench: Bench, rows: int, inner: int, columns: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same numbers for all ways."""
    torch.manual_seed(0)
    weight = bench.normal(columns, inner) * inner**-0.5
    return bench.normal(rows, inner), weight, bench.normal(columns)


def _plain(operands: Operands) -> Step:
    x, weight, bias = operands()
    return lambda: functional.linear(x, weight, bias)


def _before(operands: Operands) -> Step:
    x, weight, bias = operands()
    quantised, by_output = quantise(x), quantise(weight)
    return lambda: product(quantised, by_output, bias)


def _within(operands: Operands, quantiser: Callable[[torch.Tensor], Quantised]) -> Step:
    x, weight, bias = operands()
    by_output = quantise(weight)
    return lambda: product(quantiser(x), by_output, bias)


def _compiled(operands: Operands, bench: Bench) -> Step:
    return _within(operands, torch.compile(quantise, backend=bench.plan.compiler, dynamic=True))
