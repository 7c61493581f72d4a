"""What both text encoders should say about an instruction: (n, WIDTH) and (n, T5_LENGTH, WIDTH).

The codes are sums of the directions that scenes and their objects have in ``train_text``, so that
what an edit asks for lies where the transformer already reads it, and of a few spare ones that say
which operation is meant. The target borrows the directions of the second object, new values those
of the first. An instruction to change nothing is the empty sentence.
"""

from functools import cache
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from pipelines.embedded.training import captions, world
from pipelines.embedded.training.editing import instructions
from pipelines.embedded.training.editing.edits import (
    OPERATIONS,
    UNSAID,
    Edit,
    Operation,
)
from pipelines.embedded.training.train_text import WIDTH, directions, empty_code
from pipelines.embedded.training.world import NO_COLOUR, NO_SHAPE

_WORKING = len(OPERATIONS) - 1  # every operation but the last, which does nothing
_TARGETED = (
    Operation.RECOLOUR,
    Operation.REPLACE,
    Operation.MOVE,
    Operation.RESIZE,
    Operation.REMOVE,
)
_SCENE_DIRECTIONS = sum(field.values for field in world.FIELDS) + 1


class _Tokens(NamedTuple):
    """Directions of T5's tokens, each (values, WIDTH)."""

    place: Tensor
    shape: Tensor
    colour: Tensor
    background: Tensor
    layout: Tensor
    other: Tensor


def pooled_codes(edits: list[Edit]) -> Tensor:
    """CLIP's pooled vectors: operation, target and new values, (n, WIDTH) of unit variance."""
    scenes, operations = _pooled_directions()
    offsets = [0, *accumulate(field.values for field in world.FIELDS)]
    rows = []
    for edit in edits:
        if edit.operation is Operation.NOTHING:
            rows.append(empty_code())
            continue
        parts = [operations[OPERATIONS.index(edit.operation)]]
        values = {
            world.LAYOUT: edit.layout,
            world.BACKGROUND: edit.background,
            world.SHAPE_1: edit.shape,
            world.COLOUR_1: edit.colour,
        }
        if edit.operation in _TARGETED:
            values |= {world.SHAPE_2: edit.target_shape, world.COLOUR_2: edit.target_colour}
        parts += [scenes[offsets[field] + v] for field, v in values.items() if v != UNSAID]
        rows.append(torch.stack(parts).sum(0) * (WIDTH / len(parts)) ** 0.5)
    return torch.stack(rows)


def token_codes(edits: list[Edit], tags: Tensor) -> Tensor:
    """T5's tokens: (n, T5_LENGTH, WIDTH) for edits and the tags (n, T5_LENGTH) of their words."""
    basis, spare = _token_directions()
    operations, (target, value, no_shape, no_colour) = spare[:_WORKING], spare[_WORKING:]
    codes = torch.zeros(len(edits), tags.shape[1], WIDTH)
    codes[tags == captions.OTHER] = basis.other[0]
    codes[tags == -1] = basis.other[1]
    for row, tag, edit in zip(codes, tags, edits, strict=True):
        if edit.operation is Operation.NOTHING:
            row[tag == instructions.OPERATION] = basis.other[0]
            continue
        operation = operations[OPERATIONS.index(edit.operation)]
        row[tag == instructions.OPERATION] = operation
        shape = no_shape if edit.target_shape == NO_SHAPE else basis.shape[edit.target_shape]
        colour = no_colour if edit.target_colour == NO_COLOUR else basis.colour[edit.target_colour]
        row[tag == instructions.TARGET] = (target + shape + colour) / 3**0.5
        parts = [value, operation]
        parts += [basis.place[edit.layout]] * (edit.layout != UNSAID)
        parts += [basis.shape[edit.shape]] * (edit.shape != UNSAID)
        parts += [basis.colour[edit.colour]] * (edit.colour != UNSAID)
        parts += [basis.background[edit.background]] * (edit.background != UNSAID)
        row[tag == instructions.VALUE] = torch.stack(parts).sum(0) / len(parts) ** 0.5
    return codes * WIDTH**0.5


@cache
def _pooled_directions() -> tuple[Tensor, Tensor]:
    """The scenes' directions, and one per operation."""
    return directions(_SCENE_DIRECTIONS, seed=21), _spare(_SCENE_DIRECTIONS, _WORKING, seed=21)


@cache
def _token_directions() -> tuple[_Tokens, Tensor]:
    """The tokens' directions, and spare ones: operations, target, value, nothing said (2)."""
    colours, layouts = len(world.COLOURS), len(world.LAYOUTS)
    counts = [layouts, NO_SHAPE, colours, colours, layouts, 2]
    parts = directions(sum(counts), seed=22).split(counts)
    return _Tokens(*parts), _spare(sum(counts), _WORKING + 4, seed=22)


def _spare(used: int, wanted: int, *, seed: int) -> Tensor:
    """Orthonormal rows (wanted, WIDTH) beside the first ``used`` of a seed, without a mean too."""
    generator = torch.Generator().manual_seed(77)
    columns = torch.cat(
        [
            torch.ones(WIDTH, 1) / WIDTH**0.5,
            directions(used, seed=seed).T,
            torch.randn(WIDTH, wanted, generator=generator),
        ],
        1,
    )
    return torch.linalg.qr(columns).Q.T[used + 1 :].contiguous()
