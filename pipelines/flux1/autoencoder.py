"""The decoder of FLUX.1's VAE, by the names that its checkpoints have for its modules.

diffusers' `AutoencoderKL` without its encoder, which is in `vae_encoder.py`, and without the 1,900
modules that importing it takes. The operations and their order are diffusers', so the pixels are
the same to the bit.

Shapes:  B images      C channels      h, w height and width where they are
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate, scaled_dot_product_attention

from pipelines.errors import CheckpointError
from pipelines.flux1.memory import tile_size

EPSILON = 1e-6
_ACTIVATION = "silu"
_BLOCKS = {"up": "UpDecoderBlock2D", "down": "DownEncoderBlock2D"}
_MOST_NHWC_IMAGES = 63
_MOST_NHWC_VALUES = 2**31
"""Torch's upsampling with channels innermost fails on more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VaeConfig:
    """A VAE's `config.json`, with the defaults that diffusers has for what it leaves out."""

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    norm_num_groups: int = 32
    mid_block_add_attention: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    scaling_factor: float = 0.18215
    shift_factor: float = 0.0
    sample_size: int = 32

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> VaeConfig:
        """What of a `config.json` is the encoder's and the decoder's.

        Raises CheckpointError for another kind of VAE, TypeError for values of another kind.
        """
        if (found := content.get("act_fn", _ACTIVATION)) != _ACTIVATION:
            raise CheckpointError(f"vae: act_fn is {found}, but FLUX.1's is {_ACTIVATION}")
        for way, block in _BLOCKS.items():
            if set(found := content.get(f"{way}_block_types", [block])) != {block}:
                raise CheckpointError(f"vae: {way}_block_types are {found}, but FLUX.1's {block}")
        known = {
            each.name: content[each.name]
            for each in fields(cls)
            if content.get(each.name) is not None
        }
        if "block_out_channels" in known:
            known["block_out_channels"] = tuple(known["block_out_channels"])
        if isinstance(known.get("sample_size"), list | tuple):
            known["sample_size"] = known["sample_size"][0]
        return cls(**known)

    @property
    def shrinkage(self) -> int:
        """Pixels of a side for one latent."""
        return 2 ** (len(self.block_out_channels) - 1)

    @property
    def tile_size(self) -> int:
        """Side in pixels of the tiles of `tiling.py`; 0: it cannot work in any."""
        return tile_size(self.sample_size, levels=len(self.block_out_channels))


class FluxVae(nn.Module):
    """The decoder half of the VAE, with the settings that scale its latents."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        self.decoder = _Decoder(config)
        if config.use_post_quant_conv:
            self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w), already scaled and shifted, to RGB (B, 3, 8h, 8w), about -1..1."""
        if self.config.use_post_quant_conv:
            latents = self.post_quant_conv(latents)
        return self.decoder(latents)


class _Decoder(nn.Module):
    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        first, *others = reversed(config.block_out_channels)
        groups, layers = config.norm_num_groups, config.layers_per_block + 1
        self.conv_in = nn.Conv2d(config.latent_channels, first, 3, padding=1)
        self.mid_block = MiddleBlock(first, groups, attends=config.mid_block_add_attention)
        self.up_blocks = nn.ModuleList()
        for into, out in zip((first, first, *others), (first, *others), strict=False):
            is_last = len(self.up_blocks) == len(others)
            self.up_blocks.append(_UpBlock(into, out, groups, layers=layers, upsamples=not is_last))
        last = config.block_out_channels[0]
        self.conv_norm_out = nn.GroupNorm(groups, last, eps=EPSILON)
        self.conv_act = nn.SiLU()
        self.conv_out = nn.Conv2d(last, config.out_channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(self.conv_act(self.conv_norm_out(x)))


class MiddleBlock(nn.Module):
    """Two residual blocks, attention between them."""

    def __init__(self, channels: int, groups: int, *, attends: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(channels, channels, groups) for _ in range(2))
        self.attentions = nn.ModuleList([VaeAttention(channels, groups)] if attends else [])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


class _UpBlock(nn.Module):
    def __init__(self, into: int, out: int, groups: int, *, layers: int, upsamples: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(out if i else into, out, groups) for i in range(layers))
        self.upsamplers = nn.ModuleList([_Upsampler(out)] if upsamples else [])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (*self.resnets, *self.upsamplers):
            x = layer(x)
        return x


class Resnet(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, into: int, out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, into, eps=EPSILON)
        self.conv1 = nn.Conv2d(into, out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out, eps=EPSILON)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.nonlinearity = nn.SiLU()
        self.conv_shortcut = nn.Conv2d(into, out, 1) if into != out else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.conv1(self.nonlinearity(self.norm1(x)))
        hidden = self.conv2(self.nonlinearity(self.norm2(hidden)))
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + hidden


class VaeAttention(nn.Module):
    """One head over all places of an image."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps=EPSILON)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        # Normalised as (B, C, h * w) and seen as (B, h * w, C), or bits would differ.
        tokens = self.group_norm(x.view(batch, channels, -1)).transpose(1, 2)
        heads = (project(tokens)[:, None] for project in (self.to_q, self.to_k, self.to_v))
        attended = self.to_out[0](scaled_dot_product_attention(*heads)[:, 0])
        return attended.transpose(1, 2).reshape(batch, channels, height, width) + x


class _Upsampler(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > _MOST_NHWC_IMAGES or 2 * x.numel() > _MOST_NHWC_VALUES:
            x = x.contiguous()
        return self.conv(interpolate(x, scale_factor=2.0, mode="nearest"))
