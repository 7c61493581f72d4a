"""FLUX.1's VAE in tiles: as diffusers' `AutoencoderKL` with `enable_tiling()`, to the same bits.

Tiles are squares of the VAE's `sample_size`, each begins three quarters of one after the last, and
in the quarter where two overlap the one fades into the other: first from above, then from the left
(`tiled_decode`, `_tiled_encode`, `blend_v` and `blend_h` in diffusers 0.42.1). Each tile has its
own statistics and attention, so the result is another than that of the whole, by a little.

Here only two rows of tiles are kept, and not all: what a tile fades out of is its neighbours' last
quarter, when those have been faded themselves.

Shapes:  B images      C channels      h, w height and width where they are
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from pipelines.flux1.autoencoder import VaeConfig

_OVERLAP = 0.25
_HEIGHT, _WIDTH = 2, 3


class TileGrid(NamedTuple):
    """How one half of a VAE is tiled: side and distance of tiles in what comes in; of what goes out
    the overlap that is faded, and the side that is kept of a tile."""

    side: int
    distance: int
    overlap: int
    kept: int

    @classmethod
    def of_decoder(cls, config: VaeConfig) -> TileGrid:
        """In latents and pixels."""
        latents, pixels = config.sample_size // config.shrinkage, config.sample_size
        overlap = int(pixels * _OVERLAP)
        return cls(latents, int(latents * (1 - _OVERLAP)), overlap, pixels - overlap)

    @classmethod
    def of_encoder(cls, config: VaeConfig) -> TileGrid:
        """In pixels and latents."""
        latents, pixels = config.sample_size // config.shrinkage, config.sample_size
        overlap = int(latents * _OVERLAP)
        return cls(pixels, int(pixels * (1 - _OVERLAP)), overlap, latents - overlap)


def run_tiled(
    run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, grid: TileGrid
) -> torch.Tensor:
    """What `run` makes of (B, C, h, w), tile by tile, joined: all sides as many times larger or
    smaller as `run` makes a tile's. It must give a tensor of its own each time."""
    joined: list[torch.Tensor] = []
    above: list[torch.Tensor] = []
    for top in range(0, x.shape[_HEIGHT], grid.distance):
        row: list[torch.Tensor] = []
        for place, left in enumerate(range(0, x.shape[_WIDTH], grid.distance)):
            tile = run(x[:, :, top : top + grid.side, left : left + grid.side])
            if above:
                _fade(above[place], tile, grid.overlap, _HEIGHT)
            if row:
                _fade(row[-1], tile, grid.overlap, _WIDTH)
            row.append(tile)
        joined.append(torch.cat([tile[:, :, : grid.kept, : grid.kept] for tile in row], _WIDTH))
        above = row
    return torch.cat(joined, _HEIGHT)


def _fade(before: torch.Tensor, tile: torch.Tensor, overlap: int, side: int) -> None:
    """Let the end of `before` fade into the beginning of `tile`, in place, along one side."""
    overlap = min(before.shape[side], tile.shape[side], overlap)
    end = before.narrow(side, before.shape[side] - overlap, overlap)
    beginning = tile.narrow(side, 0, overlap)
    shares = [place / overlap for place in range(overlap)]
    # In float32, and each product rounded to the tensor's dtype, as products with a number are.
    going = _along([1 - share for share in shares], side, tile)
    coming = _along(shares, side, tile)
    beginning.copy_((end * going).to(tile.dtype) + (beginning * coming).to(tile.dtype))


def _along(shares: list[float], side: int, like: torch.Tensor) -> torch.Tensor:
    """Factors along one side of a tensor (B, C, h, w)."""
    shape = [1, 1, 1, 1]
    shape[side] = len(shares)
    return torch.tensor(shares, dtype=torch.float32, device=like.device).view(shape)
