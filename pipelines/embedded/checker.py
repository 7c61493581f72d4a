"""Reads a scene back from pixels, so that accuracy can be counted without looking.

Analysis by synthesis: every shape is tried at many positions and scales in every slot of every
layout; for each such template the two colours that fit best are found by least squares. The layout
and shapes with the smallest unexplained variance win, and the fitted colours are named by the
nearest palette entry. A blurred or slightly noisy picture therefore still reads as what it shows.
The checker never sees the caption.
"""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from pipelines.embedded import world

POOL = 2
"""Pictures and templates are averaged over blocks of this many pixels, which quiets pixel noise."""

MIN_FIT = 0.7
"""A slot reads as nothing if its best template explains less than this share of the variance."""

MAX_COLOUR_ERROR = 60 / 255
"""Largest distance in RGB (each in [0, 1]) between a fitted colour and the palette's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Templates:
    """All templates of one slot.

    ``masks`` (t, pixels) float32 with the mean taken off, ``means`` (t,), ``energy`` (t,) the
    masks' sums of squares, ``shapes`` (t,) int64, ``window`` the part of the image they cover.
    """

    masks: Tensor
    means: Tensor
    energy: Tensor
    shapes: Tensor
    window: tuple[slice, slice]


class SlotReading(NamedTuple):
    """What one slot shows: shape and fg/bg colours of the best template, and the unexplained part.

    ``shape`` (n,) int64, ``ink`` and ``ground`` (n, 3), ``residual`` and ``variance`` (n,) sums.
    """

    shape: Tensor
    ink: Tensor
    ground: Tensor
    residual: Tensor
    variance: Tensor


class Verdict(NamedTuple):
    """Which attributes of each image are right: (n,) bool each. ``all`` is their conjunction."""

    shape: Tensor
    colour: Tensor
    background: Tensor
    layout: Tensor
    all: Tensor


def read(images: Tensor) -> Tensor:
    """Read scenes from (n, 3, 64, 64) images in [0, 1]: (n, 6) codes, -1 for what is unreadable."""
    readings = {
        layout: [_read_slot(images, _templates(layout, i)) for i in range(len(slots))]
        for layout, slots in world.SLOTS.items()
    }
    # Every layout covers the whole picture once, so the unexplained sums compare directly.
    unexplained = torch.stack([sum_residual(slots) for slots in readings.values()])
    best = unexplained.argmin(0)
    codes = torch.full((len(images), len(world.FIELDS)), -1, dtype=torch.int64)
    for layout, slots in readings.items():
        rows = best == layout
        codes[rows] = _codes(layout, slots)[rows]
    return codes


def sum_residual(slots: list[SlotReading]) -> Tensor:
    """The unexplained sum of squares over all slots of a layout: (n,)."""
    return torch.stack([slot.residual for slot in slots]).sum(0)


def judge(images: Tensor, codes: Tensor) -> Verdict:
    """Compare what (n, 3, 64, 64) images show with the scenes (n, 6) they were asked to show."""
    same = read(images) == codes
    layout = same[:, world.LAYOUT]
    shape = layout & same[:, world.SHAPE_1] & same[:, world.SHAPE_2]
    colour = layout & same[:, world.COLOUR_1] & same[:, world.COLOUR_2]
    background = same[:, world.BACKGROUND]
    return Verdict(shape, colour, background, layout, same.all(1))


def _codes(layout: int, slots: list[SlotReading]) -> Tensor:
    n = len(slots[0].shape)
    codes = torch.full((n, len(world.FIELDS)), -1, dtype=torch.int64)
    codes[:, world.LAYOUT] = layout
    codes[:, world.SHAPE_2], codes[:, world.COLOUR_2] = world.NO_SHAPE, world.NO_COLOUR
    grounds = torch.stack([_name(slot.ground) for slot in slots]) - len(world.COLOURS)
    agreed = (grounds == grounds[0]).all(0) & (grounds[0] >= 0)
    codes[:, world.BACKGROUND] = torch.where(agreed, grounds[0], -1)
    for index, slot in enumerate(slots):
        fits = slot.residual <= (1 - MIN_FIT) * slot.variance
        ink = _name(slot.ink)
        shape_column, colour_column = world.SHAPE_1 + 2 * index, world.COLOUR_1 + 2 * index
        codes[:, shape_column] = torch.where(fits, slot.shape, -1)
        codes[:, colour_column] = torch.where(fits & (ink < len(world.COLOURS)), ink, -1)
    return codes


def _name(colours: Tensor) -> Tensor:
    """The nearest palette entry of (n, 3) colours, object colours first: (n,) int64, -1 if far."""
    entries = list(world.COLOURS.values()) + list(world.BACKGROUNDS.values())
    distance, index = torch.cdist(colours, torch.tensor(entries) / 255.0).min(1)
    return torch.where(distance <= MAX_COLOUR_ERROR, index, -1)


def _read_slot(images: Tensor, templates: Templates) -> SlotReading:
    """Fit ``ground + (ink - ground) * mask`` per template and channel; keep the best template."""
    rows, columns = templates.window
    pixels = avg_pool2d(images, POOL)[:, :, rows, columns].flatten(2)  # (n, 3, pixels)
    mean = pixels.mean(2)
    variance = (pixels - mean[:, :, None]).square().sum((1, 2))
    product = pixels @ templates.masks.T  # (n, 3, t); masks have no mean, so neither need pixels
    explained = product.square().sum(1) / templates.energy
    best = explained.argmax(1)
    slope = product.gather(2, best[:, None, None].expand(-1, 3, 1))[:, :, 0]
    slope = slope / templates.energy[best, None]
    ground = mean - slope * templates.means[best, None]
    residual = variance - explained.gather(1, best[:, None])[:, 0]
    return SlotReading(templates.shapes[best], ground + slope, ground, residual, variance)


@cache
def _templates(layout: int, index: int) -> Templates:
    """Every shape over the slot's jitter and one pixel more, in steps of about one pixel."""
    slot = world.SLOTS[layout][index]
    steps = torch.arange(-(slot.shift + 1), slot.shift + 1.01, 1.0)
    low, high = slot.radius
    radii = torch.linspace(low - 1, high + 1, 5)
    grid = torch.cartesian_prod(steps, steps, radii)
    window = _window(layout, index)
    parts = [
        world.coverage(shape, slot.x + grid[:, 0], slot.y + grid[:, 1], grid[:, 2])
        for shape in range(len(world.SHAPES))
    ]
    masks = avg_pool2d(torch.cat(parts)[:, None], POOL)[:, 0, window[0], window[1]].flatten(1)
    means = masks.mean(1)
    masks = masks - means[:, None]
    return Templates(
        masks=masks,
        means=means,
        energy=masks.square().sum(1),
        shapes=torch.arange(len(world.SHAPES)).repeat_interleave(len(grid)),
        window=window,
    )


def _window(layout: int, index: int) -> tuple[slice, slice]:
    """The pooled rows and columns that belong to a slot: all, or its half."""
    side = world.SIZE // POOL // 2
    half = slice(index * side, (index + 1) * side)
    whole = slice(None)
    if layout == world.CENTRE:
        return whole, whole
    return (whole, half) if layout == world.ROW else (half, whole)
