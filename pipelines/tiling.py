"""When a VAE works on a picture in overlapping tiles, and not on the whole: a rule of its size.

The rule is settled when a stage starts, by an option or by how much memory its device has in all,
never by how much happens to be free: equal pictures have equal bits, whatever else is there. How
tiles are cut and joined is each family's business. Knows no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipelines.errors import ConfigurationError

_MEMORY_SHARE = 4
"""Of a device's memory, the fourth part may go to one batch before its pictures are tiled."""
_PIXEL_STEP = 256 * 256
_GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """Tiles of `size` x `size` pixels, for pictures of `from_pixels` pixels and more."""

    size: int
    from_pixels: int

    def covers(self, height: int, width: int) -> bool:
        """Whether a picture of this size is tiled. One that fits into a tile never is."""
        return height * width >= self.from_pixels and max(height, width) > self.size

    def pixels_at_once(self, pixels: int) -> int:
        """The most pixels that are worked on together of pictures of up to `pixels`."""
        return min(pixels, max(self.from_pixels - 1, self.size**2))

    def __str__(self) -> str:
        return f"tiles of {self.size} from {self.from_pixels} pixels"


def tiling_for(
    size: int,
    from_pixels: int | None,
    *,
    memory: int,
    bytes_of: Callable[[int], int],
    option: str = "tile_from_pixels",
) -> Tiling | None:
    """The rule of a VAE whose tiles are of `size` pixels, 0 where it has none; None: no tiles.

    Without `from_pixels` they begin where a batch would take more than a quarter of the device's
    `memory`, in bytes, of which whole GiB count; `bytes_of` tells what a batch of pictures with so
    many pixels takes. Raises ConfigurationError for `from_pixels` where there are no tiles.
    """
    if size == 0:
        if from_pixels is not None:
            raise ConfigurationError(
                f"{option}: the model's VAE cannot work in tiles; leave it out"
            )
        return None
    if from_pixels is None:
        # Whole GiB, as GPUs of one type differ by less.
        share = max(1, memory // _GIB) * _GIB // _MEMORY_SHARE
        from_pixels = max(1, share // max(1, bytes_of(_PIXEL_STEP))) * _PIXEL_STEP
    return Tiling(size=size, from_pixels=from_pixels)
