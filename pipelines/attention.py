"""Attention inside the segments of a packed batch, by name of the back end.

Shapes:  T tokens of all segments, one after the other      H heads      E head width
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch.nn.functional import scaled_dot_product_attention

from pipelines.errors import ConfigurationError

SegmentAttention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Sequence[int]], torch.Tensor]
"""(query, key, value, lengths) -> output; tensors are (T, H, E), `lengths` sum up to T."""


def sdpa(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: Sequence[int]
) -> torch.Tensor:
    """Torch's scaled_dot_product_attention, one call per run of neighbours of equal length."""
    outputs: list[torch.Tensor] = []
    start = 0
    for length, run in groupby(lengths):
        count = len(list(run))
        rows = slice(start, start + count * length)
        # (count * length, H, E) -> (count, H, length, E): segments become the batch axis.
        q, k, v = (
            x[rows].unflatten(0, (count, length)).transpose(1, 2) for x in (query, key, value)
        )
        outputs.append(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1))
        start = rows.stop
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


BACKENDS: dict[str, SegmentAttention] = {"sdpa": sdpa}
"""`DenoiserOptions.attention` lists the same names, where torch must not be imported."""


def backend(name: str) -> SegmentAttention:
    """The attention back end called `name`. Raises ConfigurationError for an unknown one."""
    if name not in BACKENDS:
        raise ConfigurationError(f"attention: no back end {name!r}; available: {sorted(BACKENDS)}")
    return BACKENDS[name]
