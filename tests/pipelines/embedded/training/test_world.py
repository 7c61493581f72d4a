"""The world: its colours can be told apart, its split holds, its pictures follow the codes."""

from itertools import combinations

import pytest
import torch
from torch import Tensor

from pipelines.embedded.training import world
from pipelines.embedded.training.outlines import SHAPES


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_colours_are_far_apart() -> None:
    for one, other in combinations(world.COLOURS.values(), 2):
        distance = torch.dist(torch.tensor(one).float(), torch.tensor(other).float())
        assert distance > 80


def test_training_and_held_out_scenes_never_meet(generator: torch.Generator) -> None:
    trained = world.sample_codes(20_000, generator)
    held_out = world.sample_codes(5_000, generator, held_out=True)
    assert not world.is_held_out(trained).any()
    assert world.is_held_out(held_out).all()
    assert not _triples(trained[~world.has_two(trained)]) & _triples(
        held_out[~world.has_two(held_out)]
    )


def test_no_object_of_a_trained_pair_is_a_held_out_triple(generator: torch.Generator) -> None:
    pairs = world.sample_codes(5_000, generator, two_objects=1.0)
    for shape, colour in ((world.SHAPE_1, world.COLOUR_1), (world.SHAPE_2, world.COLOUR_2)):
        single = pairs.clone()
        single[:, world.LAYOUT] = world.CENTRE
        single[:, world.SHAPE_1], single[:, world.COLOUR_1] = pairs[:, shape], pairs[:, colour]
        assert not world.is_held_out(single).any()


def test_about_one_single_scene_in_seven_is_held_out() -> None:
    columns = [torch.arange(len(SHAPES)), *[torch.arange(len(world.COLOURS))] * 2]
    shape, colour, background = torch.cartesian_prod(*columns).unbind(1)
    nothing = torch.zeros_like(shape)
    rows = [nothing, background, shape, colour]
    rows += [nothing + world.NO_SHAPE, nothing + world.NO_COLOUR]
    codes = torch.stack(rows, 1)
    held_out = world.is_held_out(codes)
    assert held_out.float().mean().item() == pytest.approx(1 / 7, abs=0.01)
    # Every two of the three are still trained on together.
    for one, other in combinations((world.SHAPE_1, world.COLOUR_1, world.BACKGROUND), 2):
        kept = {tuple(row) for row in codes[~held_out][:, [one, other]].tolist()}
        assert kept == {tuple(row) for row in codes[:, [one, other]].tolist()}


def test_an_object_never_has_the_colour_of_the_background(generator: torch.Generator) -> None:
    codes = world.sample_codes(5_000, generator)
    for column in (world.COLOUR_1, world.COLOUR_2):
        assert (codes[:, column] != codes[:, world.BACKGROUND]).all()


def test_share_of_two_objects_is_kept(generator: torch.Generator) -> None:
    for held_out in (False, True):
        codes = world.sample_codes(1_000, generator, two_objects=0.3, held_out=held_out)
        assert world.has_two(codes).sum() == 300


@pytest.mark.parametrize("canvas", world.CANVASES, ids=str)
def test_pictures_have_the_size_and_the_colours(
    canvas: world.Canvas, generator: torch.Generator
) -> None:
    codes = world.sample_codes(32, generator)
    images = world.render(codes, generator, canvas)
    assert images.shape == (32, 3, *canvas)
    assert images.min() >= 0
    assert images.max() <= 1
    palette = torch.tensor(list(world.COLOURS.values())) / 255
    corners = images[:, :, 0, 0]
    assert torch.allclose(corners, palette[codes[:, world.BACKGROUND]])


def test_the_seed_decides_the_picture() -> None:
    codes = world.sample_codes(4, torch.Generator().manual_seed(1))
    first, again, other = (
        world.render(codes, torch.Generator().manual_seed(seed)) for seed in (2, 2, 3)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def _triples(codes: Tensor) -> set[tuple[int, ...]]:
    columns = [world.SHAPE_1, world.COLOUR_1, world.BACKGROUND]
    return {tuple(row) for row in codes[:, columns].tolist()}
