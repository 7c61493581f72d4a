"""The weights of FLUX.1's blocks, those that share an input fused into one product.

Taken from diffusers' modules, whose names are known here only. Nothing is held twice: the modules'
own parameters become slices of the fused ones.

Shapes:  d width      E head width
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from pipelines.packing.linear import Linear, Total


class StreamWeights(NamedTuple):
    """One stream of a double block. `head_norm` (2, E) scales query and key."""

    qkv: Linear
    head_norm: torch.Tensor
    out: Linear
    mlp_in: Linear
    mlp_out: Linear


class DoubleWeights(NamedTuple):
    """Image and text stream of a double block."""

    image: StreamWeights
    text: StreamWeights


class SingleWeights(NamedTuple):
    """A single block; `qkv_mlp` makes query, key, value and the MLP's input in one product."""

    qkv_mlp: Linear
    head_norm: torch.Tensor
    out: Linear


def double_weights(block: Any, total: Total | None = None) -> DoubleWeights:
    """Weights of a diffusers `FluxTransformerBlock`, those with one input fused in place.

    With `total`, the block holds one rank's shares of its heads and hidden values.
    """
    attn = block.attn
    return DoubleWeights(
        image=StreamWeights(
            _fuse(attn.to_q, attn.to_k, attn.to_v),
            _stack(attn.norm_q, attn.norm_k),
            _fuse(attn.to_out[0], total=total),
            _fuse(block.ff.net[0].proj),
            _fuse(block.ff.net[2], total=total),
        ),
        text=StreamWeights(
            _fuse(attn.add_q_proj, attn.add_k_proj, attn.add_v_proj),
            _stack(attn.norm_added_q, attn.norm_added_k),
            _fuse(attn.to_add_out, total=total),
            _fuse(block.ff_context.net[0].proj),
            _fuse(block.ff_context.net[2], total=total),
        ),
    )


def single_weights(block: Any, total: Total | None = None) -> SingleWeights:
    """Weights of a diffusers `FluxSingleTransformerBlock`, those with one input fused in place.

    With `total`, the block holds one rank's shares of its heads and hidden values.
    """
    attn = block.attn
    return SingleWeights(
        _fuse(attn.to_q, attn.to_k, attn.to_v, block.proj_mlp),
        _stack(attn.norm_q, attn.norm_k),
        _fuse(block.proj_out, total=total),
    )


def _fuse(*modules: Any, total: Total | None = None) -> Linear:
    """One layer for several that share their input.

    The modules' own parameters become slices of it: nothing is held twice, they go on working, and
    fusing them again gives the same memory. Parameters, because compilers take their shapes as
    fixed.
    """
    for module in modules:
        # A wrapper (LoRA, quantisation) computes more than its weight says.
        assert type(module) is nn.Linear, f"cannot fuse {type(module).__name__}"
    return Linear(
        _join([module.weight for module in modules]),
        _join([module.bias for module in modules]),
        total,
    )


def _join(parts: Sequence[nn.Parameter]) -> nn.Parameter:
    first, rows = parts[0], [len(part) for part in parts]
    if len(parts) == 1:
        return first
    if _are_neighbours(parts):
        joined = first.detach().as_strided((sum(rows), *first.shape[1:]), first.stride())
    else:
        joined = torch.cat([part.detach() for part in parts])
        for part, piece in zip(parts, joined.split(rows), strict=True):
            part.data = piece
    return nn.Parameter(joined, requires_grad=False)


def _are_neighbours(parts: Sequence[torch.Tensor]) -> bool:
    """Whether the parts already lie one after the other in one piece of memory."""
    storages = {part.untyped_storage().data_ptr() for part in parts}
    ends = [part.storage_offset() + part.numel() for part in parts]
    starts = [part.storage_offset() for part in parts]
    return len(storages) == 1 and starts[1:] == ends[:-1]


def _stack(*norms: Any) -> nn.Parameter:
    return nn.Parameter(torch.stack([norm.weight.detach() for norm in norms]), requires_grad=False)
