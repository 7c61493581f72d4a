"""Edits change one thing, and their pictures differ by it alone."""

import random

import pytest
import torch

from pipelines.embedded.training import checker, world
from pipelines.embedded.training.editing.edits import (
    NOTHING,
    OPERATIONS,
    SIDES,
    Edit,
    Operation,
    Pair,
    apply,
    carry_jitter,
    describe_target,
    possible,
    sample_pairs,
    thing,
)
from pipelines.embedded.training.outlines import SHAPES
from pipelines.embedded.training.world import NO_COLOUR, NO_SHAPE

CIRCLE, STAR = SHAPES.index("circle"), SHAPES.index("star")
RED, BLUE, WHITE = (world.COLOUR_NAMES.index(name) for name in ("red", "blue", "white"))
ROW_OF_TWO = (world.ROW, WHITE, CIRCLE, RED, STAR, BLUE)
LEFT, RIGHT = SIDES[world.ROW]


def _pairs(n: int, **options: object) -> list[Pair]:
    generator, rng = torch.Generator().manual_seed(3), random.Random(3)
    return sample_pairs(n, generator, rng, **options)  # type: ignore[arg-type]


def test_removing_one_of_two_leaves_the_other_where_it_was() -> None:
    removed = apply(ROW_OF_TWO, Edit(operation=Operation.REMOVE, slot=0))
    assert removed == (RIGHT, WHITE, STAR, BLUE, NO_SHAPE, NO_COLOUR)
    back = Edit(operation=Operation.ADD, slot=0, shape=CIRCLE, colour=RED, layout=LEFT)
    assert apply(removed, back) == ROW_OF_TWO
    kept = apply(ROW_OF_TWO, Edit(operation=Operation.REMOVE, slot=1))
    assert kept == (LEFT, WHITE, CIRCLE, RED, NO_SHAPE, NO_COLOUR)


def test_an_edit_sets_the_value_of_the_slot_that_is_meant() -> None:
    recoloured = apply(ROW_OF_TWO, Edit(operation=Operation.RECOLOUR, slot=1, colour=RED))
    assert recoloured == (world.ROW, WHITE, CIRCLE, RED, STAR, RED)
    replaced = apply(ROW_OF_TWO, Edit(operation=Operation.REPLACE, slot=0, shape=STAR))
    assert replaced == (world.ROW, WHITE, STAR, RED, STAR, BLUE)
    ground = apply(ROW_OF_TWO, Edit(operation=Operation.BACKGROUND, background=7))
    assert ground[world.BACKGROUND] == 7
    assert apply(ROW_OF_TWO, NOTHING) == ROW_OF_TWO


def test_pairs_are_of_held_out_scenes_or_of_trained_ones() -> None:
    for held_out in (False, True):
        pairs = _pairs(200, held_out=held_out)
        for scenes in ([p.before for p in pairs], [p.after for p in pairs]):
            assert bool((world.is_held_out(torch.tensor(scenes)) == held_out).all())
    kinds = {pair.edit.operation for pair in _pairs(400)}
    assert kinds == set(OPERATIONS)
    assert all(world.has_two(torch.tensor([p.before]))[0] for p in _pairs(20, objects=2))


def test_every_edit_but_nothing_changes_the_scene() -> None:
    for pair in _pairs(300):
        same = pair.before == pair.after
        assert same == (pair.edit.operation is Operation.NOTHING)
        ground = pair.after[world.BACKGROUND]
        colours = {thing(pair.after, slot)[1] for slot in range(2)}
        assert ground not in colours


def test_one_of_two_is_described_by_what_the_other_lacks() -> None:
    twins = (world.ROW, WHITE, CIRCLE, RED, CIRCLE, BLUE)
    edit = Edit(operation=Operation.REPLACE, slot=1, shape=STAR)
    described = [describe_target(twins, edit, random.Random(seed)) for seed in range(40)]
    ways = {(d.target_shape, d.target_colour) for d in described if d}
    assert ways == {(NO_SHAPE, BLUE), (CIRCLE, BLUE)}
    same = (world.ROW, WHITE, CIRCLE, RED, CIRCLE, RED)
    assert describe_target(same, edit, random.Random(0)) is None


def test_a_pair_grows_off_the_square_so_nothing_is_added_or_removed_there() -> None:
    assert Operation.REMOVE in possible(ROW_OF_TWO)
    assert Operation.REMOVE not in possible(ROW_OF_TWO, square=False)
    operations = {pair.edit.operation for pair in _pairs(150, square=False)}
    assert not operations & {Operation.ADD, Operation.REMOVE}


@pytest.mark.parametrize("operation", [Operation.ADD, Operation.REMOVE, Operation.RECOLOUR])
def test_pictures_of_a_pair_differ_in_one_half_only(operation: Operation) -> None:
    pairs = [
        p for p in _pairs(60, operations=(operation,)) if world.ROW in (p.before[0], p.after[0])
    ]
    assert len(pairs) > 5
    for seed, pair in enumerate(pairs[:8]):
        jitter = world.draw_jitter(1, torch.Generator().manual_seed(seed))[0]
        before = world.render_with(torch.tensor([pair.before]), jitter[None])
        carried = carry_jitter(jitter, pair.edit)
        after = world.render_with(torch.tensor([pair.after]), carried[None])
        halves = ((before - after)[..., :32].abs().max(), (before - after)[..., 32:].abs().max())
        assert min(halves) == 0
        assert max(halves) > 0.1
        assert checker.read(after)[0].tolist() == list(pair.after)
