"""The world of coloured shapes: which scenes exist, how they are drawn, which are held out.

A scene is one object somewhere, or two objects side by side (a row) or one over the other (a
column), on a plain background. Knows nothing of sentences (``captions.py``) or of models.

Shapes of tensors: ``codes`` is (n, 6) int64, one column per field of ``FIELDS``; ``images`` is
(n, 3, height, width) float32 in [0, 1]. Lengths are in units of a 64th of the shorter side.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pipelines.embedded.training.outlines import SHAPES, distance

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 30, 30),
    "orange": (250, 130, 10),
    "yellow": (250, 230, 40),
    "green": (30, 150, 60),
    "cyan": (50, 210, 225),
    "blue": (40, 80, 230),
    "purple": (140, 40, 190),
    "pink": (250, 130, 200),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
    "brown": (115, 70, 30),
    "navy": (10, 20, 110),
    "mint": (175, 240, 200),
}
"""Colours of objects and of backgrounds; an object never has its background's."""

COLOUR_NAMES = tuple(COLOURS)
WHITE = COLOUR_NAMES.index("white")
NO_SHAPE, NO_COLOUR = len(SHAPES), len(COLOURS)
"""The codes of the second object's shape and colour where there is no second object."""


class Canvas(NamedTuple):
    """The size of a picture in pixels."""

    height: int
    width: int

    @property
    def unit(self) -> float:
        """Pixels per unit of length."""
        return min(self) / 64

    @property
    def tokens(self) -> int:
        """How many image tokens the transformer sees."""
        return self.height * self.width // 256

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


CANVASES = (Canvas(64, 64), Canvas(64, 96), Canvas(96, 64), Canvas(96, 96), Canvas(128, 128))
"""The sizes that are trained; the first is the default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Where an object may be: its centre as a share of the picture, and its jitter in units.

    ``radius`` is a range, ``shift`` how far the centre may move on either axis. ``share`` is the
    part of width and height that the object has to itself, where it may grow with the picture.
    """

    x: float
    y: float
    radius: tuple[float, float] = (10.5, 12.0)
    shift: float = 1.5
    share: tuple[float, float] | None = None

    def growth(self, canvas: Canvas) -> float:
        """By how much the object is larger on this canvas than on a square one."""
        if self.share is None:
            return 1.0
        room = min(canvas.width * self.share[0], canvas.height * self.share[1]) / canvas.unit
        return min(1.5, room / 32)


_ROW, _COLUMN = (0.5, 1.0), (1.0, 0.5)
LAYOUTS: dict[str, tuple[Slot, ...]] = {
    "centre": (Slot(x=0.5, y=0.5, radius=(16.5, 19.5), shift=2.5),),
    "small": (Slot(x=0.5, y=0.5, radius=(10.0, 11.5)),),
    "left": (Slot(x=0.25, y=0.5),),
    "right": (Slot(x=0.75, y=0.5),),
    "top": (Slot(x=0.5, y=0.25),),
    "bottom": (Slot(x=0.5, y=0.75),),
    "top left": (Slot(x=0.25, y=0.25),),
    "top right": (Slot(x=0.75, y=0.25),),
    "bottom left": (Slot(x=0.25, y=0.75),),
    "bottom right": (Slot(x=0.75, y=0.75),),
    "row": (Slot(x=0.25, y=0.5, share=_ROW), Slot(x=0.75, y=0.5, share=_ROW)),
    "column": (Slot(x=0.5, y=0.25, share=_COLUMN), Slot(x=0.5, y=0.75, share=_COLUMN)),
}
"""Where objects are. With two, the left or upper one is the first."""

LAYOUT_NAMES = tuple(LAYOUTS)
CENTRE, ROW, COLUMN = (LAYOUT_NAMES.index(name) for name in ("centre", "row", "column"))


class Field(NamedTuple):
    """One column of ``codes``: its name and how many values it takes."""

    name: str
    values: int


FIELDS = (
    Field("layout", len(LAYOUTS)),
    Field("background", len(COLOURS)),
    Field("first_shape", len(SHAPES)),
    Field("first_colour", len(COLOURS)),
    Field("second_shape", len(SHAPES) + 1),
    Field("second_colour", len(COLOURS) + 1),
)
LAYOUT, BACKGROUND, SHAPE_1, COLOUR_1, SHAPE_2, COLOUR_2 = range(len(FIELDS))


def has_two(codes: Tensor) -> Tensor:
    """Which scenes have two objects: (n,) bool."""
    return codes[:, LAYOUT] >= ROW


def is_held_out(codes: Tensor) -> Tensor:
    """Which scenes are never trained on: (n,) bool.

    One (shape, colour, background) triple in seven is held out, of any object; so is one ordered
    pair of objects in eleven. Every single value, and every two of a triple, is still trained on.
    """
    layout, background, shape_1, colour_1, shape_2, colour_2 = codes.unbind(1)
    first = (3 * shape_1 + 5 * colour_1 + 2 * background) % 7 == 0
    second = (3 * shape_2 + 5 * colour_2 + 2 * background) % 7 == 0
    one, other = (len(COLOURS) * s + c for s, c in ((shape_1, colour_1), (shape_2, colour_2)))
    pair = (3 * one + 5 * other + layout) % 11 == 0
    return first | (has_two(codes) & (second | pair))


def sample_codes(
    n: int, generator: torch.Generator, *, two_objects: float = 0.5, held_out: bool = False
) -> Tensor:
    """Draw scenes, either only trained or only held-out ones: (n, 6) int64.

    ``two_objects`` is the share of scenes with two objects; half of the others are centred.
    """
    n_two = round(n * two_objects)
    parts = [
        _sample(n - n_two, generator, two=False, held_out=held_out),
        _sample(n_two, generator, two=True, held_out=held_out),
    ]
    return torch.cat(parts)[torch.randperm(n, generator=generator)]


def _sample(n: int, generator: torch.Generator, *, two: bool, held_out: bool) -> Tensor:
    """n scenes of one kind, by rejection."""
    kept = torch.empty(0, len(FIELDS), dtype=torch.int64)
    while len(kept) < n:
        m = 4 * n + 16

        def draw(values: int, m: int = m) -> Tensor:
            return torch.randint(values, (m,), generator=generator)

        background = draw(len(COLOURS))
        one_layout = draw(2 * ROW - 2)  # half of them beyond the other layouts: in the centre
        one_layout = torch.where(one_layout < ROW, one_layout, CENTRE)
        # Any colour but the background's.
        colours = [(background + 1 + draw(len(COLOURS) - 1)) % len(COLOURS) for _ in range(2)]
        shapes = [draw(len(SHAPES)) for _ in range(2)]
        columns = [ROW + draw(2) if two else one_layout, background]
        columns += [shapes[0], colours[0]]
        columns += [shapes[1] if two else torch.full((m,), NO_SHAPE)]
        columns += [colours[1] if two else torch.full((m,), NO_COLOUR)]
        codes = torch.stack(columns, 1)
        kept = torch.cat([kept, codes[is_held_out(codes) == held_out]])
    return kept[:n]


def coverage(
    canvas: Canvas, slot: Slot, shape: int, dx: Tensor, dy: Tensor, radius: Tensor
) -> Tensor:
    """How much of each pixel an object covers, antialiased: (n, height, width) float32.

    ``dx``, ``dy`` (n,) move the centre, ``radius`` (n,) is before growth; all in units.
    """
    unit = canvas.unit
    x = slot.x * canvas.width + dx * unit
    y = slot.y * canvas.height + dy * unit
    u = torch.arange(canvas.width)[None, None, :] + 0.5 - x[:, None, None]
    v = torch.arange(canvas.height)[None, :, None] + 0.5 - y[:, None, None]
    r = radius[:, None, None] * unit * slot.growth(canvas)
    u, v = torch.broadcast_tensors(u, v)
    return (0.5 - distance(SHAPES[shape], u, v, r)).clamp(0, 1)


def render(codes: Tensor, generator: torch.Generator, canvas: Canvas = CANVASES[0]) -> Tensor:
    """Draw each scene once, with jitter from the generator: (n, 3, height, width) in [0, 1]."""
    return render_with(codes, draw_jitter(len(codes), generator), canvas)


def draw_jitter(n: int, generator: torch.Generator) -> Tensor:
    """Where in its slot each object is, and how large: (n, 2, 3), in [0, 1), x, y and radius."""
    return torch.rand((n, 2, 3), generator=generator)


def render_with(codes: Tensor, jitter: Tensor, canvas: Canvas = CANVASES[0]) -> Tensor:
    """Draw each scene (n, 6) with a jitter (n, 2, 3) of its own: (n, 3, height, width)."""
    palette = torch.tensor(list(COLOURS.values()), dtype=torch.float32) / 255
    ground = palette[codes[:, BACKGROUND]]
    images = ground[:, :, None, None].expand(-1, -1, *canvas).clone()
    for layout, slots in enumerate(LAYOUTS.values()):
        for index, slot in enumerate(slots):
            shapes, colours = codes[:, SHAPE_1 + 2 * index], codes[:, COLOUR_1 + 2 * index]
            for shape in range(len(SHAPES)):
                rows = torch.nonzero((codes[:, LAYOUT] == layout) & (shapes == shape)).flatten()
                if len(rows) == 0:
                    continue
                dx, dy, dr = jitter[rows, index].unbind(1)
                low, high = slot.radius
                mask = coverage(
                    canvas,
                    slot,
                    shape,
                    (2 * dx - 1) * slot.shift,
                    (2 * dy - 1) * slot.shift,
                    low + (high - low) * dr,
                )[:, None]
                ink = palette[colours[rows]][:, :, None, None]
                images[rows] = torch.lerp(images[rows], ink, mask)
    return images


def describe(code: Tensor) -> str:
    """A plain name of one scene (6,), for logs and tables: ``row: red circle, blue star; navy``."""
    layout, background, shape_1, colour_1, shape_2, colour_2 = (int(v) for v in code)
    names = (*COLOUR_NAMES, "no")
    shapes = (*SHAPES, "second")
    things = f"{names[colour_1]} {shapes[shape_1]}, {names[colour_2]} {shapes[shape_2]}"
    return f"{LAYOUT_NAMES[layout]}: {things}; {names[background]}"
