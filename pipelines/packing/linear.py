"""The one product of a packed forward with weights.

Whatever changes such a product, be it ranks that share it, other bits of its weights or adapters on
some rows, has its place here, and no block knows of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional

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


def linear(x: torch.Tensor, layer: Linear) -> torch.Tensor:
    """`layer` of `x` (..., in), or of all that the ranks have of it: (..., out)."""
    if layer.total is None:
        return functional.linear(x, layer.weight, layer.bias)
    return layer.total(functional.linear(x, layer.weight)).add_(layer.bias)
