"""The one product of a packed forward with weights.

Whatever changes such a product, be it ranks that share it, other bits of its weights or adapters on
some rows, has its place here, and no block knows of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from pipelines.batch_invariant import products_are_invariant

Total = Callable[[torch.Tensor], torch.Tensor]
"""Adds up a tensor over the ranks that share a product, in place."""


class Linear(NamedTuple):
    """Weight (out, in) and bias (out,) of a linear layer, or of several with one input.

    With `total`, the inputs are spread over t ranks (`pipelines.parallel`): the weight
    (out, in / t) is this rank's, `total` adds up what all made, and the bias counts once.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    total: Total | None = None


def layer_of(module: nn.Linear) -> Linear:
    """The weights of a layer that nobody shares."""
    return Linear(module.weight, module.bias)


def linear(x: torch.Tensor, layer: Linear, counts: tuple[int, ...] | None = None) -> torch.Tensor:
    """`layer` of `x` (..., in), or of all that the ranks have of it: (..., out).

    With `counts` so many rows each belong together, and get the bits that they have alone.
    """
    if layer.total is None:
        return _product(x, layer.weight, layer.bias, counts)
    return layer.total(_product(x, layer.weight, None, counts)).add_(layer.bias)


def _product(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    counts: tuple[int, ...] | None,
) -> torch.Tensor:
    out, into = weight.shape
    if counts is None or products_are_invariant(
        counts, out=out, into=into, has_bias=bias is not None, dtype=x.dtype
    ):
        return functional.linear(x, weight, bias)
    parts = x.reshape(-1, into).split(counts)
    return torch.cat([functional.linear(each, weight, bias) for each in parts]).view(
        *x.shape[:-1], out
    )
