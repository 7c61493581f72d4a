"""Reads a scene back from pixels, so that accuracy can be counted without looking.

Analysis by synthesis: every shape is tried at many positions and scales in every slot of every
layout; for each such template the two colours that fit best are found by least squares. The layout
and shapes with the smallest unexplained variance win, and the fitted colours are named by the
nearest palette entry. A blurred or slightly noisy picture therefore still reads as what it shows.
The checker never sees the caption.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from pipelines.embedded.training import world
from pipelines.embedded.training.world import Canvas

POOLED_SIDE = 32
"""Pictures and templates are averaged down to this shorter side, which quiets pixel noise."""

MIN_FIT = 0.7
"""A slot reads as nothing if its best template explains less than this share of the variance."""

MIN_CONTRAST = 50 / 255
"""A slot of two holds an object only if it differs from the ground by this distance in RGB."""

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
    """What one slot shows, by its best template.

    ``shape`` (n,) int64; ``ink`` and ``ground`` (n, 3); ``residual`` (n,) the unexplained sum of
    squares; ``fits`` (n,) bool, whether enough is explained.
    """

    shape: Tensor
    ink: Tensor
    ground: Tensor
    residual: Tensor
    fits: Tensor


class Verdict(NamedTuple):
    """Which attributes of each image are right: (n,) bool each. ``all`` is their conjunction."""

    shape: Tensor
    colour: Tensor
    background: Tensor
    layout: Tensor
    all: Tensor


def read(images: Tensor) -> Tensor:
    """Read scenes from (n, 3, h, w) images in [0, 1]: (n, 6) codes, -1 for what is unreadable.

    The shorter side must be a multiple of 32 pixels.
    """
    canvas = Canvas(images.shape[2], images.shape[3])
    if min(canvas) % POOLED_SIDE:
        raise ValueError(f"the shorter side of {canvas} is no multiple of {POOLED_SIDE}")
    pooled = avg_pool2d(images, min(canvas) // POOLED_SIDE)
    small = Canvas(pooled.shape[2], pooled.shape[3])
    readings = [
        [_read_slot(pooled, _templates(small, name, index)) for index in range(len(slots))]
        for name, slots in world.LAYOUTS.items()
    ]
    # Every layout covers the whole picture once, so the unexplained sums compare directly.
    best = torch.stack([_unexplained(slots) for slots in readings]).argmin(0)
    codes = torch.full((len(images), len(world.FIELDS)), -1, dtype=torch.int64)
    for layout, slots in enumerate(readings):
        rows = best == layout
        codes[rows] = _codes(layout, slots)[rows]
    return codes


def judge(images: Tensor, codes: Tensor) -> Verdict:
    """Compare what (n, 3, h, w) images show with the scenes (n, 6) they were asked to show."""
    same = read(images) == codes
    layout = same[:, world.LAYOUT]
    shape = layout & same[:, world.SHAPE_1] & same[:, world.SHAPE_2]
    colour = layout & same[:, world.COLOUR_1] & same[:, world.COLOUR_2]
    background = same[:, world.BACKGROUND]
    return Verdict(shape, colour, background, layout, same.all(1))


def _unexplained(slots: list[SlotReading]) -> Tensor:
    """What a layout leaves unexplained: (n,). Infinite for two slots of which one is empty.

    Otherwise a single object on the left would be a row with nothing on the right.
    """
    total = torch.stack([slot.residual for slot in slots]).sum(0)
    if len(slots) == 1:
        return total
    held = [slot.fits & ((slot.ink - slot.ground).norm(dim=1) > MIN_CONTRAST) for slot in slots]
    return torch.where(torch.stack(held).all(0), total, torch.inf)


def _codes(layout: int, slots: list[SlotReading]) -> Tensor:
    n = len(slots[0].shape)
    codes = torch.full((n, len(world.FIELDS)), -1, dtype=torch.int64)
    codes[:, world.LAYOUT] = layout
    codes[:, world.SHAPE_2], codes[:, world.COLOUR_2] = world.NO_SHAPE, world.NO_COLOUR
    grounds = torch.stack([_name(slot.ground) for slot in slots])
    codes[:, world.BACKGROUND] = torch.where((grounds == grounds[0]).all(0), grounds[0], -1)
    for index, slot in enumerate(slots):
        shape_column, colour_column = world.SHAPE_1 + 2 * index, world.COLOUR_1 + 2 * index
        codes[:, shape_column] = torch.where(slot.fits, slot.shape, -1)
        codes[:, colour_column] = torch.where(slot.fits, _name(slot.ink), -1)
    return codes


def _name(colours: Tensor) -> Tensor:
    """The nearest palette entry of (n, 3) colours: (n,) int64, -1 if none is near."""
    palette = torch.tensor(list(world.COLOURS.values())) / 255.0
    distance, index = torch.cdist(colours, palette).min(1)
    return torch.where(distance <= MAX_COLOUR_ERROR, index, -1)


def _read_slot(images: Tensor, templates: Templates) -> SlotReading:
    """Fit ``ground + (ink - ground) * mask`` per template and channel; keep the best template."""
    rows, columns = templates.window
    pixels = images[:, :, rows, columns].flatten(2)  # (n, 3, pixels)
    mean = pixels.mean(2)
    variance = (pixels - mean[:, :, None]).square().sum((1, 2))
    product = pixels @ templates.masks.T  # (n, 3, t); masks have no mean, so neither need pixels
    explained = product.square().sum(1) / templates.energy
    best = explained.argmax(1)
    slope = product.gather(2, best[:, None, None].expand(-1, 3, 1))[:, :, 0]
    slope = slope / templates.energy[best, None]
    ground = mean - slope * templates.means[best, None]
    residual = variance - explained.gather(1, best[:, None])[:, 0]
    fits = residual <= (1 - MIN_FIT) * variance
    return SlotReading(templates.shapes[best], ground + slope, ground, residual, fits)


@cache
def _templates(canvas: Canvas, layout: str, index: int) -> Templates:
    """Every shape over the slot's jitter and one unit more, in steps of about one unit.

    Drawn on the pooled canvas, whatever the size of the picture.
    """
    slots = world.LAYOUTS[layout]
    slot = slots[index]
    steps = torch.arange(-(slot.shift + 1), slot.shift + 1.01, 1.0)
    low, high = slot.radius
    radii = torch.linspace(low - 1, high + 1, math.ceil(high - low) + 3)
    dx, dy, radius = torch.cartesian_prod(steps, steps, radii).unbind(1)
    window = _window(canvas, layout, index)
    parts = [
        world.coverage(canvas, slot, shape, dx, dy, radius) for shape in range(len(world.SHAPES))
    ]
    masks = torch.cat(parts)[:, window[0], window[1]].flatten(1)
    means = masks.mean(1)
    masks = masks - means[:, None]
    return Templates(
        masks=masks,
        means=means,
        energy=masks.square().sum(1),
        shapes=torch.arange(len(world.SHAPES)).repeat_interleave(len(radius)),
        window=window,
    )


def _window(canvas: Canvas, layout: str, index: int) -> tuple[slice, slice]:
    """The pooled rows and columns that belong to a slot: all, or its half."""
    whole = slice(None)
    if layout not in ("row", "column"):
        return whole, whole
    side = canvas.width if layout == "row" else canvas.height
    middle = side // 2
    half = slice(0, middle) if index == 0 else slice(middle, None)
    return (whole, half) if layout == "row" else (half, whole)
