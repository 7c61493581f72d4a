"""How clean the outlines of a picture are, whatever it was asked to show.

A pixel belongs to an object where its colour is nearer to the object's than to the background's.
The best-fitting true outline of the shape is searched over centre and radius; its overlap with the
object's pixels is the intersection over the union, 1 for a perfect outline. A pixel that is near
neither colour, and does not lie on the outline, belongs to nothing: a smear.
"""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from pipelines.embedded.training import world
from pipelines.embedded.training.outlines import SHAPES, distance
from pipelines.embedded.training.world import Canvas

SEARCHES = ((0.12, 7), (0.04, 7), (0.012, 5))
"""Spans around the best fit so far, as a share of its radius, and steps per span and axis."""

MIN_PIXELS = 10
"""An object of fewer pixels than this has an overlap of 0."""

MAX_COLOUR_ERROR = 60 / 255
"""A pixel further than this in RGB from both colours belongs to nothing."""


class Fidelity(NamedTuple):
    """Overlap per object (objects,), in the order of pictures, and smear per picture (n,)."""

    iou: Tensor
    smear: Tensor


class Fit(NamedTuple):
    """An outline, its centre and radius in pixels, and its overlap with what was drawn."""

    iou: float
    x: float
    y: float
    radius: float


def fidelity(images: Tensor, codes: Tensor) -> Fidelity:
    """Of (n, 3, h, w) images in [0, 1] that show the scenes (n, 6)."""
    canvas = Canvas(images.shape[2], images.shape[3])
    overlaps, smears = [], []
    for image, code in zip(images, codes, strict=True):
        objects = object_masks(image, code)
        covered = torch.zeros(canvas, dtype=torch.bool)
        for slot, mask in enumerate(objects):
            shape = SHAPES[int(code[world.SHAPE_1 + 2 * slot])]
            fit = best_fit(mask, shape)
            overlaps.append(fit.iou)
            covered |= outline_band(fit, shape, canvas)
        smears.append(_smear(image, code, len(objects), covered))
    return Fidelity(torch.tensor(overlaps), torch.tensor(smears))


def object_masks(image: Tensor, code: Tensor) -> list[Tensor]:
    """Which pixels of an image (3, h, w) belong to each object: (h, w) bool, within its half."""
    layout = int(code[world.LAYOUT])
    palette = torch.tensor(list(world.COLOURS.values())) / 255.0
    ground = palette[code[world.BACKGROUND]][:, None, None]
    masks = []
    for slot in range(2 if layout >= world.ROW else 1):
        ink = palette[code[world.COLOUR_1 + 2 * slot]][:, None, None]
        mask = (image - ink).norm(dim=0) < (image - ground).norm(dim=0)
        if layout >= world.ROW:
            mask = mask & _half(mask.shape, layout, slot)
        masks.append(mask)
    return masks


def best_fit(mask: Tensor, shape: str) -> Fit:
    """The outline of a shape that overlaps most with the pixels (h, w) bool of an object."""
    count = int(mask.sum())
    if count < MIN_PIXELS:
        return Fit(0.0, 0.0, 0.0, 0.0)
    mask, left, top = _cropped(mask)
    v, u = torch.meshgrid(*(torch.arange(side) + 0.5 for side in mask.shape), indexing="ij")
    area, lower = _proportions(shape)
    radius = (count / area) ** 0.5
    best = Fit(0.0, float(u[mask].mean()), float(v[mask].mean()) - lower * radius, radius)
    for span, steps in SEARCHES:
        shifts = torch.linspace(-span, span, steps) * best.radius
        radii = best.radius * torch.linspace(1 - span, 1 + span, steps)
        tried = torch.cartesian_prod(best.x + shifts, best.y + shifts, radii)
        for part in tried.split(81):
            x, y, radius = (column[:, None, None] for column in part.unbind(1))
            inside = distance(shape, u - x, v - y, radius) < 0
            union = (inside | mask).sum((1, 2))
            iou = (inside & mask).sum((1, 2)) / union
            index = int(iou.argmax())
            if iou[index] > best.iou:
                best = Fit(float(iou[index]), *part[index].tolist())
    return best._replace(x=best.x + left, y=best.y + top)


def outline_band(fit: Fit, shape: str, canvas: Canvas) -> Tensor:
    """The pixels (h, w) bool within a pixel and a half of a fitted outline."""
    if fit.radius == 0:
        return torch.zeros(canvas, dtype=torch.bool)
    v, u = torch.meshgrid(*(torch.arange(side) + 0.5 for side in canvas), indexing="ij")
    return distance(shape, u - fit.x, v - fit.y, torch.tensor(fit.radius)).abs() < 1.5


def quantiles(iou: Tensor) -> dict[str, float]:
    """Median and tenth percentile, to four places; 0 of nothing."""
    if len(iou) == 0:
        return {"iou_median": 0.0, "iou_p10": 0.0}
    values = iou.quantile(torch.tensor([0.5, 0.1])).tolist()
    return {"iou_median": round(values[0], 4), "iou_p10": round(values[1], 4)}


def _smear(image: Tensor, code: Tensor, objects: int, covered: Tensor) -> float:
    """The share of pixels away from outlines and from every colour of the scene."""
    palette = torch.tensor(list(world.COLOURS.values())) / 255.0
    fields = [world.BACKGROUND, *(world.COLOUR_1 + 2 * slot for slot in range(objects))]
    colours = palette[code[fields]]
    error = torch.cdist(image.flatten(1).T[None], colours[None])[0].amin(1)
    stray = (error > MAX_COLOUR_ERROR).view(covered.shape) & ~covered
    return float(stray.float().mean())


def _half(shape: torch.Size, layout: int, slot: int) -> Tensor:
    """The part of a picture that belongs to one of two objects: (h, w) bool."""
    half = torch.zeros(shape, dtype=torch.bool)
    axis = 1 if layout == world.ROW else 0
    middle = shape[axis] // 2
    rows = slice(0, middle) if slot == 0 else slice(middle, None)
    half[(slice(None), rows) if axis == 1 else (rows,)] = True
    return half


class _Cropped(NamedTuple):
    """The part of a mask around its pixels, and where its corner was."""

    mask: Tensor
    left: int
    top: int


def _cropped(mask: Tensor) -> _Cropped:
    """Without most of what lies outside, which the search would only count."""
    rows, columns = (torch.nonzero(mask.any(axis)).flatten() for axis in (1, 0))
    margin = 2 + int(max(len(rows), len(columns)) * 0.1)
    top, left = (max(0, int(span[0]) - margin) for span in (rows, columns))
    bottom, right = (int(span[-1]) + 1 + margin for span in (rows, columns))
    return _Cropped(mask[top:bottom, left:right], left, top)


@cache
def _proportions(shape: str) -> tuple[float, float]:
    """Of a shape of radius 1: its area, and how far its centroid lies below its centre."""
    u = torch.linspace(-1.5, 1.5, 301)
    inside = distance(shape, u[None, :], u[:, None], torch.tensor(1.0)) < 0
    area = float(inside.float().mean()) * 3.01**2
    return area, float(u[:, None].expand_as(inside)[inside].mean())
