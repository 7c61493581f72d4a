"""The shapes as distances: how far a point is outside of an outline.

Distances are exact along straight edges and close enough near curves for antialiasing. ``u`` and
``v`` are offsets from the centre, to the right and downwards, ``r`` the radius, all in pixels and
broadcastable; results are negative inside.
"""

import math

import torch
from torch import Tensor

SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "heart", "ring")


def distance(shape: str, u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    """Signed distance from the outline of a shape."""
    match shape:
        case "circle":
            return torch.hypot(u, v) - 0.95 * r
        case "square":
            return torch.maximum(u.abs(), v.abs()) - 0.85 * r
        case "triangle":
            return _triangle(u, v, r)
        case "diamond":
            return (1.1 * u.abs() + 0.72 * v.abs() - 0.82 * r) / math.hypot(1.1, 0.72)
        case "star":
            return _star(u, v, 1.15 * r)
        case "cross":
            return _cross(u, v, r)
        case "heart":
            return _heart(u, v, 0.85 * r)
        case "ring":
            return (torch.hypot(u, v) - 0.73 * r).abs() - 0.25 * r
    raise ValueError(f"unknown shape {shape!r}")


def _triangle(u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    """Equilateral, on its base: two slanted edges and the floor, the centroid a bit lower."""
    v = v - 0.2 * r
    slanted = math.cos(math.pi / 6) * u.abs() - 0.5 * v
    return torch.maximum(slanted, v) - 0.62 * r


def _cross(u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    """Two bars."""
    arm = 0.32 * r
    wide = torch.maximum(u.abs() - r, v.abs() - arm)
    tall = torch.maximum(u.abs() - arm, v.abs() - r)
    return torch.minimum(wide, tall)


def _star(u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    """Five points, one up: fold the plane onto half a point and measure against its one edge."""
    sector = 2 * math.pi / 5
    angle = torch.atan2(u, -v)
    folded = (angle - sector * torch.round(angle / sector)).abs()
    length = torch.hypot(u, v)
    x, y = length * torch.sin(folded), length * torch.cos(folded)
    # The edge runs from the tip (0, r) to the notch at half a sector and 0.45 of the radius.
    notch_x, notch_y = 0.45 * math.sin(sector / 2), 0.45 * math.cos(sector / 2)
    return (x * (1 - notch_y) + (y - r) * notch_x) / math.hypot(1 - notch_y, notch_x)


def _heart(u: Tensor, v: Tensor, d: Tensor) -> Tensor:
    """A square on its tip, half a diagonal of d, with half a circle on each upper side."""
    u, v = u.abs(), v - 0.1 * d
    square = (u + v.abs() - d) / math.sqrt(2)
    circle = torch.hypot(u - d / 2, v + d / 2) - d / math.sqrt(2)
    return torch.minimum(square, circle)
