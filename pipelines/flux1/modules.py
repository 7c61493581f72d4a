"""The modules of a FLUX.1 transformer, by the names that its checkpoints have for them.

What diffusers' `FluxTransformer2DModel` holds, without what it comes with: importing that takes
seconds and 1,800 modules (compilers, adapters, quantisers, every other model), of which serving
uses none. Most modules here only hold weights, as `pipelines.flux1.blocks` computes with them; what
this file computes itself, conditioning and rotary factors, is diffusers' arithmetic to the bit.

Shapes:  d width of the transformer      E width of a head      N rows
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn

_ROTARY_BASE = 10_000
_TIME_BASE = 10_000
_TIME_CHANNELS = 256
_EPSILON = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig:
    """A transformer's `config.json`, with the defaults that diffusers has for what it leaves out.

    `axes_dims_rope` are the columns of a head that each axis of a position rotates; they add up to
    `attention_head_dim`. `out_channels` None stands for `in_channels`.
    """

    patch_size: int = 1
    in_channels: int = 64
    out_channels: int | None = None
    num_layers: int = 19
    num_single_layers: int = 38
    attention_head_dim: int = 128
    num_attention_heads: int = 24
    joint_attention_dim: int = 4096
    pooled_projection_dim: int = 768
    guidance_embeds: bool = False
    axes_dims_rope: tuple[int, ...] = (16, 56, 56)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> TransformerConfig:
        """What of a `config.json` is a transformer's; TypeError for values of another kind."""
        known = {each.name: content[each.name] for each in fields(cls) if each.name in content}
        if "axes_dims_rope" in known:
            known["axes_dims_rope"] = tuple(known["axes_dims_rope"])
        return cls(**known)


class FluxTransformer(nn.Module):
    """All weights of a FLUX.1 transformer. `PackedFlux` runs it; it has no `forward` of its own."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.inner_dim = width = config.num_attention_heads * config.attention_head_dim
        self.time_text_embed = _Conditioner(width, config)
        self.context_embedder = nn.Linear(config.joint_attention_dim, width)
        self.x_embedder = nn.Linear(config.in_channels, width)
        head = config.attention_head_dim
        self.transformer_blocks = nn.ModuleList(
            _DoubleBlock(width, head) for _ in range(config.num_layers)
        )
        self.single_transformer_blocks = nn.ModuleList(
            _SingleBlock(width, head) for _ in range(config.num_single_layers)
        )
        self.norm_out = _AdaptiveNorm(width, vectors=2)
        channels = config.out_channels or config.in_channels
        self.proj_out = nn.Linear(width, config.patch_size**2 * channels)

    @property
    def dtype(self) -> torch.dtype:
        return self.x_embedder.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.x_embedder.weight.device

    def pos_embed(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine, (N, E) float32 each, of positions (N, axes); columns come in pairs.

        RoPE (Su et al. 2021) with angles in float64.
        """
        angles: list[torch.Tensor] = []
        for position, columns in zip(
            ids.float().unbind(1), self.config.axes_dims_rope, strict=True
        ):
            exponents = torch.arange(0, columns, 2, dtype=torch.float64, device=ids.device)
            angles.append(torch.outer(position, 1.0 / _ROTARY_BASE ** (exponents / columns)))
        joined = torch.cat(angles, dim=1)
        cos, sin = (
            part.repeat_interleave(2, dim=1).float() for part in (joined.cos(), joined.sin())
        )
        return cos, sin


class FluxControlNet(FluxTransformer):
    """All weights of a FLUX.1 ControlNet: a transformer without an end, with a linear layer after
    each block. `num_mode` kinds of control maps are told apart by a token of text, if any."""

    def __init__(self, config: TransformerConfig, num_mode: int | None) -> None:
        super().__init__(config)
        del self.norm_out, self.proj_out
        width = self.inner_dim
        self.controlnet_x_embedder = nn.Linear(config.in_channels, width)
        self.controlnet_blocks = nn.ModuleList(
            nn.Linear(width, width) for _ in range(config.num_layers)
        )
        self.controlnet_single_blocks = nn.ModuleList(
            nn.Linear(width, width) for _ in range(config.num_single_layers)
        )
        self.num_mode = num_mode
        if num_mode is not None:
            self.controlnet_mode_embedder = nn.Embedding(num_mode, width)


class _Conditioner(nn.Module):
    """The vector (N, d) that modulation is made of: time, guidance and pooled text, added up."""

    def __init__(self, width: int, config: TransformerConfig) -> None:
        super().__init__()
        self.timestep_embedder = _Embedder(_TIME_CHANNELS, width)
        if config.guidance_embeds:
            self.guidance_embedder = _Embedder(_TIME_CHANNELS, width)
        self.text_embedder = _Embedder(config.pooled_projection_dim, width)

    def forward(self, *times_and_text: torch.Tensor) -> torch.Tensor:
        """Of time (N,), guidance (N,) where the model has it, and pooled text (N, P)."""
        time, *guidance, pooled = times_and_text
        vec = self.timestep_embedder(_sinusoids(time).to(pooled.dtype))
        for scale in guidance:
            vec = vec + self.guidance_embedder(_sinusoids(scale).to(pooled.dtype))
        return vec + self.text_embedder(pooled)


class _Embedder(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear_2(nn.functional.silu(self.linear_1(x)))


def _sinusoids(values: torch.Tensor) -> torch.Tensor:
    """(N,) -> (N, 256) float32, cosines first (Vaswani et al. 2017)."""
    half = _TIME_CHANNELS // 2
    exponents = torch.arange(half, dtype=torch.float32, device=values.device)
    frequencies = torch.exp(-math.log(_TIME_BASE) * exponents / half)
    angles = values[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class _AdaptiveNorm(nn.Module):
    """AdaLN (Peebles and Xie 2023): what makes `vectors` vectors of d for a normalised stream."""

    def __init__(self, width: int, *, vectors: int) -> None:
        super().__init__()
        self.silu = nn.SiLU()
        self.linear = nn.Linear(width, vectors * width)


class _Attention(nn.Module):
    """Projections of one stream, or with `joint` of the image's and the text's (`add`)."""

    def __init__(self, width: int, head: int, *, joint: bool) -> None:
        super().__init__()
        self.norm_q, self.norm_k = _head_norm(head), _head_norm(head)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        if joint:
            self.norm_added_q, self.norm_added_k = _head_norm(head), _head_norm(head)
            self.add_q_proj, self.add_k_proj, self.add_v_proj = (
                nn.Linear(width, width) for _ in range(3)
            )
            self.to_out = nn.ModuleList([nn.Linear(width, width)])
            self.to_add_out = nn.Linear(width, width)


def _head_norm(head: int) -> nn.RMSNorm:
    return nn.RMSNorm(head, eps=_EPSILON)


class _FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        first = nn.Module()
        first.proj = nn.Linear(width, 4 * width)
        # Index 1 is a dropout in checkpoints' numbering; it has no weights.
        self.net = nn.ModuleList([first, nn.Identity(), nn.Linear(4 * width, width)])


class _DoubleBlock(nn.Module):
    def __init__(self, width: int, head: int) -> None:
        super().__init__()
        self.norm1 = _AdaptiveNorm(width, vectors=6)
        self.norm1_context = _AdaptiveNorm(width, vectors=6)
        self.attn = _Attention(width, head, joint=True)
        self.ff, self.ff_context = _FeedForward(width), _FeedForward(width)


class _SingleBlock(nn.Module):
    def __init__(self, width: int, head: int) -> None:
        super().__init__()
        self.norm = _AdaptiveNorm(width, vectors=3)
        self.attn = _Attention(width, head, joint=False)
        self.proj_mlp = nn.Linear(width, 4 * width)
        self.proj_out = nn.Linear(5 * width, width)
