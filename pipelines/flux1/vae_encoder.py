"""The encoder of FLUX.1's VAE, by the names that its checkpoints have for its modules.

The other half of `autoencoder.py`, loaded without it. The operations and their order are those of
diffusers' `AutoencoderKL`, so the moments are the same to the bit, for one image a call and in the
memory format that the image comes in.

Shapes:  B images      C latent channels      h, w height and width where they are
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import pad

from pipelines.flux1.autoencoder import EPSILON, MiddleBlock, Resnet, VaeConfig


class FluxVaeEncoder(nn.Module):
    """The encoder half of the VAE, with the settings that scale its latents."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _Encoder(config)
        if config.use_quant_conv:
            channels = 2 * config.latent_channels
            self.quant_conv = nn.Conv2d(channels, channels, 1)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """RGB (B, 3, height, width) in -1..1 to moments (B, 2C, height / 8, width / 8): means, then
        logarithms of variances."""
        moments = self.encoder(pixels)
        return self.quant_conv(moments) if self.config.use_quant_conv else moments


class _Encoder(nn.Module):
    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for into, out in zip((widths[0], *widths), widths, strict=False):
            is_last = len(self.down_blocks) == len(widths) - 1
            self.down_blocks.append(
                _DownBlock(into, out, groups, layers=config.layers_per_block, shrinks=not is_last)
            )
        self.mid_block = MiddleBlock(widths[-1], groups, attends=config.mid_block_add_attention)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=EPSILON)
        self.conv_act = nn.SiLU()
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(self.conv_act(self.conv_norm_out(self.mid_block(x))))


class _DownBlock(nn.Module):
    def __init__(self, into: int, out: int, groups: int, *, layers: int, shrinks: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(out if i else into, out, groups) for i in range(layers))
        self.downsamplers = nn.ModuleList([_Downsampler(out)] if shrinks else [])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x)
        return x


class _Downsampler(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(pad(x, (0, 1, 0, 1)))
