"""FLUX.1's latents as tokens: noise, 2x2 patches, positions.

Shapes:  S image tokens = (height / 16) * (width / 16)      C latent channels (16 for FLUX.1)
         L text tokens                                      D packed channels, 4 C

The oracle is `diffusers.FluxPipeline`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipelines.flux1.family import SIZE_MULTIPLE


def draw_noise(
    seed: int,
    *,
    height: int,
    width: int,
    latent_channels: int,
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The packed starting noise (S, D) of one image.

    Drawn on the CPU whatever the device, so that a seed means the same image everywhere.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    rows, columns = latent_size(height, width)
    shape = (1, latent_channels, rows, columns)
    return pack(torch.randn(shape, generator=generator, dtype=dtype).to(device))[0]


def latent_size(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the latents of an image, before they are packed."""
    return 2 * (height // SIZE_MULTIPLE), 2 * (width // SIZE_MULTIPLE)


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Fold 2x2 patches into channels: (B, C, 2h, 2w) -> (B, h * w, 4C)."""
    batch, channels, rows, columns = latents.shape
    patches = latents.view(batch, channels, rows // 2, 2, columns // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * 4)


def unpack(packed: torch.Tensor, *, height: int, width: int) -> torch.Tensor:
    """Undo `pack`: (B, S, 4C) -> (B, C, height / 8, width / 8)."""
    batch, _, depth = packed.shape
    rows, columns = height // SIZE_MULTIPLE, width // SIZE_MULTIPLE
    patches = packed.view(batch, rows, columns, depth // 4, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(batch, depth // 4, rows * 2, columns * 2)


def position_ids(
    text_tokens: int,
    *,
    height: int,
    width: int,
    references: Sequence[tuple[int, int]] = (),
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    """RoPE positions (L + S + R, 3): zeros for the text, (0, row, column) for the image.

    A token of the i-th of `references`, of (height, width) pixels, is at (i, row, column), from 1
    on: where `FluxKontextPipeline` has its only one. Positions pass through `dtype` because the
    pipeline's do: in bfloat16 that rounds above 256.
    """
    images = [_grid(index, *size) for index, size in enumerate([(height, width), *references])]
    return torch.cat([torch.zeros(text_tokens, 3), *images]).to(device=device, dtype=dtype)


def _grid(index: int, height: int, width: int) -> torch.Tensor:
    rows, columns = height // SIZE_MULTIPLE, width // SIZE_MULTIPLE
    image = torch.zeros(rows, columns, 3)
    image[..., 0] = index
    image[..., 1] = torch.arange(rows)[:, None]
    image[..., 2] = torch.arange(columns)[None, :]
    return image.reshape(-1, 3)
