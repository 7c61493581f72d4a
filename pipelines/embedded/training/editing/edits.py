"""Edits: which scenes follow from which, and how the object that is meant may be described.

An edit changes one thing and leaves everything else where it is, jitter included. Knows nothing of
sentences (``instructions.py``) or models.
"""

import random
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from pipelines.embedded.training import world
from pipelines.embedded.training.outlines import SHAPES
from pipelines.embedded.training.world import NO_COLOUR, NO_SHAPE

UNSAID = -1
"""The value of a field of ``Edit`` that the operation does not set."""

Scene = tuple[int, ...]
"""The six codes of a scene, as ``world.FIELDS`` has them."""


class Operation(StrEnum):
    """What an instruction may ask for; the order is that of the encoders' directions."""

    RECOLOUR = "recolour"
    REPLACE = "replace"
    MOVE = "move"
    BACKGROUND = "background"
    RESIZE = "resize"
    ADD = "add"
    REMOVE = "remove"
    NOTHING = "nothing"


OPERATIONS = tuple(Operation)

SHARES = {
    Operation.RECOLOUR: 0.25,
    Operation.REPLACE: 0.24,
    Operation.MOVE: 0.12,
    Operation.BACKGROUND: 0.12,
    Operation.RESIZE: 0.04,
    Operation.ADD: 0.08,
    Operation.REMOVE: 0.07,
    Operation.NOTHING: 0.08,
}
"""How often each is trained on and counted."""

_PLACE = {name: index for index, name in enumerate(world.LAYOUT_NAMES)}
CENTRE, SMALL = _PLACE["centre"], _PLACE["small"]
MOVABLE = tuple(range(SMALL, world.ROW))
"""The layouts of one small object, which can be moved from any of them to any other."""

SIDES = {
    world.ROW: (_PLACE["left"], _PLACE["right"]),
    world.COLUMN: (_PLACE["top"], _PLACE["bottom"]),
}
"""Where each object of a pair is when it is alone."""

PAIRS = {place: (pair, slot) for pair, places in SIDES.items() for slot, place in enumerate(places)}
"""The pair that a single object on a side becomes part of, and which of the two it then is."""

OBJECTS = {
    Operation.MOVE: (1,),
    Operation.RESIZE: (1,),
    Operation.ADD: (1,),
    Operation.REMOVE: (2,),
}
"""How many objects there are before an operation, where it is not for one or two."""

LAYOUTS = {
    Operation.MOVE: MOVABLE,
    Operation.RESIZE: (CENTRE, SMALL),
    Operation.ADD: tuple(PAIRS),
}
"""Where the one object may be before an operation, if that is not anywhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One operation on one scene.

    ``slot`` is the object that is meant: of the scene before, or, when one is added, of the scene
    after. ``target_shape`` and ``target_colour`` are how it is described (``NO_SHAPE`` and
    ``NO_COLOUR`` where that is not said). The others are new values, ``UNSAID`` where the operation
    has none: ``layout`` is the new place or size, or where an added object goes.
    """

    operation: Operation
    slot: int = 0
    target_shape: int = NO_SHAPE
    target_colour: int = NO_COLOUR
    shape: int = UNSAID
    colour: int = UNSAID
    background: int = UNSAID
    layout: int = UNSAID


NOTHING = Edit(operation=Operation.NOTHING)


def thing(scene: Scene, slot: int) -> tuple[int, int]:
    """The shape and the colour of an object."""
    return scene[world.SHAPE_1 + 2 * slot], scene[world.COLOUR_1 + 2 * slot]


def apply(scene: Scene, edit: Edit) -> Scene:
    """The scene that follows."""
    after = list(scene)
    match edit.operation:
        case Operation.RECOLOUR:
            after[world.COLOUR_1 + 2 * edit.slot] = edit.colour
        case Operation.REPLACE:
            after[world.SHAPE_1 + 2 * edit.slot] = edit.shape
        case Operation.MOVE | Operation.RESIZE:
            after[world.LAYOUT] = edit.layout
        case Operation.BACKGROUND:
            after[world.BACKGROUND] = edit.background
        case Operation.ADD:
            pair, slot = PAIRS[edit.layout]
            things = [thing(scene, 0), (edit.shape, edit.colour)]
            things = things if slot == 1 else things[::-1]
            after = [pair, scene[world.BACKGROUND], *things[0], *things[1]]
        case Operation.REMOVE:
            place = SIDES[scene[world.LAYOUT]][1 - edit.slot]
            kept = thing(scene, 1 - edit.slot)
            after = [place, scene[world.BACKGROUND], *kept, NO_SHAPE, NO_COLOUR]
        case Operation.NOTHING:
            pass
    return tuple(after)


def carry_jitter(jitter: Tensor, edit: Edit) -> Tensor:
    """The jitter (2, 3) of the scene after: it belongs to objects, which may have changed slots."""
    added_first = edit.operation is Operation.ADD and PAIRS[edit.layout][1] == 0
    removed_first = edit.operation is Operation.REMOVE and edit.slot == 0
    return jitter.flip(0) if added_first or removed_first else jitter


def possible(scene: Scene, *, square: bool = True) -> tuple[Operation, ...]:
    """The operations that the scene allows.

    On canvases that are not square a pair's objects are larger than a single one, so adding or
    removing one would change the other: there they are not possible.
    """
    layout = scene[world.LAYOUT]
    operations = [Operation.RECOLOUR, Operation.REPLACE, Operation.BACKGROUND, Operation.NOTHING]
    for operation, layouts in LAYOUTS.items():
        if layout in layouts and (square or operation is not Operation.ADD):
            operations.append(operation)
    if square and layout >= world.ROW:
        operations.append(Operation.REMOVE)
    return tuple(operations)


def draw_edit(scene: Scene, operation: Operation, slot: int, rng: random.Random) -> Edit:
    """An edit with random new values, which always differ from what the scene shows.

    The object that is meant is not described yet: see ``describe_target``.
    """
    background, (shape, colour) = scene[world.BACKGROUND], thing(scene, slot)
    colours, shapes = range(len(world.COLOURS)), range(len(SHAPES))
    layout = scene[world.LAYOUT]
    match operation:
        case Operation.RECOLOUR:
            new = rng.choice([c for c in colours if c not in (background, colour)])
            return Edit(operation=operation, slot=slot, colour=new)
        case Operation.REPLACE:
            new = rng.choice([s for s in shapes if s != shape])
            return Edit(operation=operation, slot=slot, shape=new)
        case Operation.MOVE:
            place = rng.choice([place for place in MOVABLE if place != layout])
            return Edit(operation=operation, layout=place)
        case Operation.BACKGROUND:
            taken = (background, scene[world.COLOUR_1], scene[world.COLOUR_2])
            ground = rng.choice([c for c in colours if c not in taken])
            return Edit(operation=operation, background=ground)
        case Operation.RESIZE:
            return Edit(operation=operation, layout=SMALL if layout == CENTRE else CENTRE)
        case Operation.ADD:
            pair, kept = PAIRS[layout]
            new = rng.choice([c for c in colours if c != background])
            return Edit(
                operation=operation,
                slot=1 - kept,
                shape=rng.choice(shapes),
                colour=new,
                layout=SIDES[pair][1 - kept],
            )
        case Operation.REMOVE:
            return Edit(operation=operation, slot=slot)
        case Operation.NOTHING:
            return NOTHING


def describe_target(scene: Scene, edit: Edit, rng: random.Random) -> Edit | None:
    """The edit with a description of the object that is meant; None if none would be clear.

    A single object may be meant without a word about it; one of two needs what the other lacks.
    """
    if edit.operation in (Operation.BACKGROUND, Operation.ADD, Operation.NOTHING):
        return edit
    shape, colour = thing(scene, edit.slot)
    full, by_shape, by_colour = (shape, colour), (shape, NO_COLOUR), (NO_SHAPE, colour)
    if scene[world.LAYOUT] < world.ROW:
        ways = [(NO_SHAPE, NO_COLOUR), by_shape, full, by_colour]
        way = rng.choices(ways, (0.35, 0.3, 0.2, 0.15))[0]
    else:
        other_shape, other_colour = thing(scene, 1 - edit.slot)
        clear = [by_shape] * 2 * (shape != other_shape) + [by_colour] * (colour != other_colour)
        clear += [full] * 2 * (full != (other_shape, other_colour))
        if not clear:
            return None
        way = rng.choice(clear)
    return Edit(
        operation=edit.operation,
        slot=edit.slot,
        target_shape=way[0],
        target_colour=way[1],
        shape=edit.shape,
        colour=edit.colour,
        background=edit.background,
        layout=edit.layout,
    )


def is_allowed(scenes: list[Scene], *, held_out: bool) -> list[bool]:
    """Which scenes are held out, or which are not."""
    codes = torch.tensor(scenes, dtype=torch.int64).view(-1, len(world.FIELDS))
    return (world.is_held_out(codes) == held_out).tolist()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A scene, an edit whose target is described, and the scene that follows."""

    before: Scene
    after: Scene
    edit: Edit


def sample_pairs(
    n: int,
    generator: torch.Generator,
    rng: random.Random,
    *,
    held_out: bool = False,
    objects: int | None = None,
    operations: tuple[Operation, ...] = OPERATIONS,
    square: bool = True,
) -> list[Pair]:
    """n edits, their scenes before *and* after held out, or both trained.

    Operations are as frequent as ``SHARES`` says. ``objects`` is how many the scene before has, one
    or two; None for either as often, where the operation leaves the choice.
    """
    can = [o for o in operations if objects in (None, *OBJECTS.get(o, (1, 2)))]
    can = [o for o in can if square or o not in (Operation.ADD, Operation.REMOVE)]
    weights = [SHARES[operation] for operation in can]
    pairs: list[Pair] = []
    while len(pairs) < n:
        scenes = {
            count: iter(_scenes(n, generator, two=count == 2, held_out=held_out))
            for count in (1, 2)
        }
        drawn: list[Pair] = []
        for operation in rng.choices(can, weights, k=n):
            count = objects or rng.choice(OBJECTS.get(operation, (1, 2)))
            pair = _draw_pair(next(scenes[count]), operation, rng)
            if pair:
                drawn.append(pair)
        allowed = is_allowed([pair.after for pair in drawn], held_out=held_out)
        pairs += [pair for pair, kept in zip(drawn, allowed, strict=True) if kept]
    return pairs[:n]


def _scenes(n: int, generator: torch.Generator, *, two: bool, held_out: bool) -> list[Scene]:
    codes = world.sample_codes(n, generator, two_objects=float(two), held_out=held_out)
    return [tuple(code) for code in codes.tolist()]


def _draw_pair(scene: Scene, operation: Operation, rng: random.Random) -> Pair | None:
    """An edit of a scene, moved to where the operation is possible; None if nothing is clear."""
    if operation in LAYOUTS:
        scene = (rng.choice(LAYOUTS[operation]), *scene[1:])  # which holds nothing out
    slot = rng.randrange(2) if scene[world.LAYOUT] >= world.ROW else 0
    edit = describe_target(scene, draw_edit(scene, operation, slot, rng), rng)
    return edit and Pair(before=scene, after=apply(scene, edit), edit=edit)
