"""The world of coloured shapes: which scenes exist, how they are drawn, which are held out.

A scene is one object in the centre, or two objects side by side (a row) or one over the other (a
column), on a plain background. Knows nothing of sentences (``captions.py``) or of models.

Shapes of tensors: ``codes`` is (n, 6) int64, one column per field of ``FIELDS``; ``images`` is
(n, 3, SIZE, SIZE) float32 in [0, 1].
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

SIZE = 64
SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross")
LAYOUTS = ("centre", "row", "column")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 30, 30),
    "orange": (250, 130, 10),
    "yellow": (250, 230, 40),
    "green": (30, 150, 60),
    "cyan": (50, 210, 225),
    "blue": (40, 80, 230),
    "purple": (140, 40, 190),
    "pink": (250, 130, 200),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
    "navy": (10, 20, 110),
    "brown": (115, 70, 30),
    "mint": (175, 240, 200),
}
COLOUR_NAMES = tuple(COLOURS)
BACKGROUND_NAMES = tuple(BACKGROUNDS)

NO_SHAPE, NO_COLOUR = len(SHAPES), len(COLOURS)
"""The codes of the second object's shape and colour where there is no second object."""


class Field(NamedTuple):
    """One column of ``codes``: its name and how many values it takes."""

    name: str
    values: int


FIELDS = (
    Field("layout", len(LAYOUTS)),
    Field("background", len(BACKGROUNDS)),
    Field("first_shape", len(SHAPES)),
    Field("first_colour", len(COLOURS)),
    Field("second_shape", len(SHAPES) + 1),
    Field("second_colour", len(COLOURS) + 1),
)
LAYOUT, BACKGROUND, SHAPE_1, COLOUR_1, SHAPE_2, COLOUR_2 = range(len(FIELDS))
CENTRE, ROW, COLUMN = range(len(LAYOUTS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Where an object of one layout may be: its nominal centre and its jitter, in pixels.

    ``radius`` is the range of the radius, ``shift`` how far the centre may move on either axis.
    """

    x: float
    y: float
    radius: tuple[float, float]
    shift: float


_PAIR = {"radius": (10.5, 12.0), "shift": 1.5}
SLOTS: dict[int, tuple[Slot, ...]] = {
    CENTRE: (Slot(x=32, y=32, radius=(16.5, 19.5), shift=2.5),),
    ROW: (Slot(x=16, y=32, **_PAIR), Slot(x=48, y=32, **_PAIR)),
    COLUMN: (Slot(x=32, y=16, **_PAIR), Slot(x=32, y=48, **_PAIR)),
}


def is_held_out(codes: Tensor) -> Tensor:
    """Which scenes are never trained on: (n,) bool.

    One (shape, colour, background) triple in seven is held out, of any object; so is one ordered
    pair of objects in eleven. Every single value, and every two of a triple, is still trained on.
    """
    layout, background, shape_1, colour_1, shape_2, colour_2 = codes.unbind(1)
    two = layout != CENTRE
    first = (3 * shape_1 + 5 * colour_1 + 2 * background) % 7 == 0
    second = (3 * shape_2 + 5 * colour_2 + 2 * background) % 7 == 0
    pair = (len(COLOURS) * (shape_1 + shape_2 * 6) + 3 * colour_1 + 5 * colour_2 + layout) % 11 == 0
    return first | (two & (second | pair))


def sample_codes(
    n: int, generator: torch.Generator, *, two_objects: float = 0.5, held_out: bool = False
) -> Tensor:
    """Draw scenes uniformly, either only trained or only held-out ones: (n, 6) int64.

    ``two_objects`` is the share of scenes with two objects.
    """
    kept: list[Tensor] = []
    missing = n
    while missing > 0:
        # Draw well over what is missing: most training draws pass the split, few held-out ones do.
        m = missing * (8 if held_out else 2) + 16
        columns = [torch.randint(field.values, (m,), generator=generator) for field in FIELDS]
        codes = torch.stack(columns, 1)
        two = torch.rand(m, generator=generator) < two_objects
        codes[:, LAYOUT] = torch.where(two, 1 + codes[:, LAYOUT] % 2, CENTRE)
        codes[:, SHAPE_2] = torch.where(two, codes[:, SHAPE_2] % NO_SHAPE, NO_SHAPE)
        codes[:, COLOUR_2] = torch.where(two, codes[:, COLOUR_2] % NO_COLOUR, NO_COLOUR)
        wanted = is_held_out(codes) == held_out
        if not held_out:
            kept.append(codes[wanted][:missing])
        else:
            # The split holds out more of the pairs than of the singles: keep the asked-for mix.
            two_missing = round(two_objects * missing)
            kept.append(codes[wanted & two][:two_missing])
            kept.append(codes[wanted & ~two][: missing - two_missing])
        missing = n - sum(len(part) for part in kept)
    drawn = torch.cat(kept)
    return drawn[torch.randperm(n, generator=generator)]


def coverage(shape: int, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """How much of each pixel an object covers, antialiased: (n, SIZE, SIZE) float32.

    ``x``, ``y`` and ``radius`` are (n,) in pixels. Distances are signed, negative inside.
    """
    grid = torch.arange(SIZE, dtype=torch.float32) + 0.5
    u = (grid[None, None, :] - x[:, None, None]).expand(-1, SIZE, -1)
    v = (grid[None, :, None] - y[:, None, None]).expand(-1, -1, SIZE)
    return (0.5 - _distance(SHAPES[shape], u, v, radius[:, None, None])).clamp(0, 1)


def _distance(shape: str, u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    """Distance to the outline, or a lower bound of it that is exact along straight edges."""
    if shape == "circle":
        return torch.hypot(u, v) - 0.95 * r
    if shape == "square":
        return torch.maximum(u.abs(), v.abs()) - 0.85 * r
    if shape == "triangle":
        # Equilateral, on its base: two slanted edges and the floor, the centroid a bit lower.
        v = v - 0.2 * r
        return torch.maximum(0.8660 * u.abs() - 0.5 * v, v) - 0.62 * r
    if shape == "diamond":
        return (1.1 * u.abs() + 0.72 * v.abs() - 0.82 * r) / 1.3147
    if shape == "star":
        return _star_distance(u, v, 1.15 * r)
    if shape == "cross":
        arm, length = 0.32 * r, r
        wide = torch.maximum(u.abs() - length, v.abs() - arm)
        tall = torch.maximum(u.abs() - arm, v.abs() - length)
        return torch.minimum(wide, tall)
    raise AssertionError(shape)


def _star_distance(u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    """Five points, one up: fold the plane onto half a point and measure against its one edge."""
    sector = 2 * torch.pi / 5
    angle = torch.atan2(u, -v)
    folded = (angle - sector * torch.round(angle / sector)).abs()
    length = torch.hypot(u, v)
    px, py = length * torch.sin(folded), length * torch.cos(folded)
    # The edge runs from the tip (0, r) to the notch at half a sector and 0.45 of the radius.
    half = torch.tensor(sector / 2)
    notch_x, notch_y = 0.45 * torch.sin(half), 0.45 * torch.cos(half)
    normal_x, normal_y = 1 - notch_y, notch_x
    return (px * normal_x + (py - r) * normal_y) / torch.hypot(normal_x, normal_y)


def render(codes: Tensor, generator: torch.Generator) -> Tensor:
    """Draw each scene once, with jitter from the generator: (n, 3, SIZE, SIZE) float32 in [0, 1]."""
    n = len(codes)
    jitter = torch.rand((n, 2, 3), generator=generator)
    ground = _palette(BACKGROUNDS)[codes[:, BACKGROUND]]
    images = ground[:, :, None, None].expand(-1, -1, SIZE, SIZE).clone()
    inks = _palette(COLOURS)
    for layout, slots in SLOTS.items():
        for index, slot in enumerate(slots):
            shapes, colours = codes[:, SHAPE_1 + 2 * index], codes[:, COLOUR_1 + 2 * index]
            for shape in range(len(SHAPES)):
                rows = torch.nonzero((codes[:, LAYOUT] == layout) & (shapes == shape)).flatten()
                if len(rows) == 0:
                    continue
                dx, dy, dr = jitter[rows, index].unbind(1)
                low, high = slot.radius
                mask = coverage(
                    shape,
                    slot.x + (2 * dx - 1) * slot.shift,
                    slot.y + (2 * dy - 1) * slot.shift,
                    low + (high - low) * dr,
                )[:, None]
                ink = inks[colours[rows]][:, :, None, None]
                images[rows] = images[rows] * (1 - mask) + ink * mask
    return images


def _palette(colours: dict[str, tuple[int, int, int]]) -> Tensor:
    return torch.tensor(list(colours.values()), dtype=torch.float32) / 255


def describe(code: Tensor) -> str:
    """A plain name of one scene (6,), for logs and tables: ``red circle | blue star, navy``."""
    layout, background, shape_1, colour_1, shape_2, colour_2 = (int(v) for v in code)
    name = f"{COLOUR_NAMES[colour_1]} {SHAPES[shape_1]}"
    if layout != CENTRE:
        sign = "|" if layout == ROW else "/"
        name += f" {sign} {COLOUR_NAMES[colour_2]} {SHAPES[shape_2]}"
    return f"{name}, {BACKGROUND_NAMES[background]}"
