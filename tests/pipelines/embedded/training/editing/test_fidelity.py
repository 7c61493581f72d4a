"""The overlap is 1 for a true outline, less for a wobbly one, and smears are counted."""

import random

import pytest
import torch

from pipelines.embedded.training import world
from pipelines.embedded.training.editing.fidelity import best_fit, fidelity, object_masks
from pipelines.embedded.training.outlines import SHAPES, distance

RED, WHITE = world.COLOUR_NAMES.index("red"), world.WHITE


def _scene(shape: int, layout: int = world.CENTRE) -> torch.Tensor:
    return torch.tensor([[layout, WHITE, shape, RED, world.NO_SHAPE, world.NO_COLOUR]])


@pytest.mark.parametrize("shape", range(len(SHAPES)), ids=SHAPES)
def test_a_true_drawing_fits_its_own_outline(shape: int) -> None:
    images = world.render(_scene(shape), torch.Generator().manual_seed(shape))
    found = fidelity(images, _scene(shape))
    assert found.iou[0] > 0.985
    assert found.smear[0] == 0


def test_both_objects_of_a_pair_are_fitted() -> None:
    generator = torch.Generator().manual_seed(2)
    codes = world.sample_codes(3, generator, two_objects=1.0)
    found = fidelity(world.render(codes, generator), codes)
    assert found.iou.shape == (6,)
    assert found.iou.min() > 0.97


def test_the_fit_finds_centre_and_radius() -> None:
    v, u = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    for shape in ("triangle", "heart", "ring"):
        mask = distance(shape, u - 30.3, v - 34.6, torch.tensor(17.2)) < 0
        fit = best_fit(mask, shape)
        assert (fit.x, fit.y, fit.radius) == pytest.approx((30.3, 34.6, 17.2), abs=0.6)


def test_a_bump_and_a_dent_cost_overlap() -> None:
    shape = SHAPES.index("circle")
    image = world.render(_scene(shape), torch.Generator().manual_seed(0))
    clean = float(fidelity(image, _scene(shape)).iou[0])
    mask = object_masks(image[0], _scene(shape)[0])[0]
    rows = torch.nonzero(mask.any(1)).flatten()
    bumpy = image.clone()
    palette = torch.tensor(list(world.COLOURS.values())) / 255
    bumpy[0, :, rows[0] - 4 : rows[0] + 2, 28:36] = palette[RED][:, None, None]  # a bump on top
    bumpy[0, :, rows[-1] - 4 : rows[-1] + 1, 26:38] = 1.0  # a dent at the bottom
    wobbly = float(fidelity(bumpy, _scene(shape)).iou[0])
    assert wobbly < clean - 0.03


def test_pixels_of_no_colour_are_a_smear() -> None:
    shape = SHAPES.index("square")
    image = world.render(_scene(shape), torch.Generator().manual_seed(1))
    image[0, :, :4, :4] = torch.tensor([0.2, 0.8, 0.2])[:, None, None]
    assert float(fidelity(image, _scene(shape)).smear[0]) == pytest.approx(16 / 4096)


def test_an_empty_picture_has_no_overlap() -> None:
    assert fidelity(torch.ones(1, 3, 64, 64), _scene(0)).iou[0] == 0


def test_the_wrong_shape_fits_badly() -> None:
    rng = random.Random(0)
    star, square = SHAPES.index("star"), SHAPES.index("square")
    images = world.render(_scene(star), torch.Generator().manual_seed(rng.randrange(9)))
    assert fidelity(images, _scene(square)).iou[0] < 0.75
