"""The checker: right on true pictures, also on poor ones, and wrong on every kind of wrong one."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from pipelines.embedded.training import checker, world

N = 200


@pytest.fixture(scope="module")
def codes() -> Tensor:
    return world.sample_codes(N, torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def images(codes: Tensor) -> Tensor:
    return world.render(codes, torch.Generator().manual_seed(6))


def _right(images: Tensor, codes: Tensor) -> float:
    return checker.judge(images, codes).all.float().mean().item()


def _blurred(images: Tensor) -> Tensor:
    return avg_pool2d(pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def test_true_pictures_are_right(images: Tensor, codes: Tensor) -> None:
    assert torch.equal(checker.read(images), codes)


@pytest.mark.parametrize("canvas", world.CANVASES[1:], ids=str)
def test_true_pictures_of_other_sizes_are_right(canvas: world.Canvas, codes: Tensor) -> None:
    images = world.render(codes[:40], torch.Generator().manual_seed(7), canvas)
    assert _right(images, codes[:40]) >= 0.99


def test_blurred_pictures_are_right(images: Tensor, codes: Tensor) -> None:
    assert _right(_blurred(images), codes) >= 0.99


def test_noisy_pictures_are_right(images: Tensor, codes: Tensor) -> None:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(8))
    noisy = (_blurred(images) + 0.04 * noise).clamp(0, 1)
    assert _right(noisy, codes) >= 0.99


@pytest.mark.parametrize(
    ("column", "values"),
    [
        pytest.param(world.LAYOUT, 10, id="place"),
        pytest.param(world.BACKGROUND, 14, id="background"),
        pytest.param(world.SHAPE_1, 8, id="shape"),
        pytest.param(world.COLOUR_1, 14, id="colour"),
    ],
)
def test_one_wrong_attribute_is_wrong(column: int, values: int) -> None:
    asked = world.sample_codes(60, torch.Generator().manual_seed(9), two_objects=0.0)
    drawn = asked.clone()
    drawn[:, column] = (drawn[:, column] + 1 + torch.arange(60) % (values - 1)) % values
    visible = drawn[:, world.COLOUR_1] != drawn[:, world.BACKGROUND]
    images = world.render(drawn[visible], torch.Generator().manual_seed(10))
    verdict = checker.judge(images, asked[visible])
    assert visible.sum() > 40
    assert not verdict.all.any()


def test_swapped_objects_and_a_turned_relation_are_wrong() -> None:
    asked = world.sample_codes(100, torch.Generator().manual_seed(11), two_objects=1.0)
    swapped = asked[:, [0, 1, 4, 5, 2, 3]]
    different = (swapped != asked).any(1)
    turned = asked.clone()
    turned[:, world.LAYOUT] = world.ROW + world.COLUMN - asked[:, world.LAYOUT]
    generator = torch.Generator().manual_seed(12)
    assert not checker.judge(world.render(swapped, generator), asked).all[different].any()
    verdict = checker.judge(world.render(turned, generator), asked)
    assert not verdict.all.any()
    assert not verdict.layout.any()
    assert verdict.background.all()


def test_a_missing_object_and_an_empty_picture_are_wrong() -> None:
    asked = world.sample_codes(60, torch.Generator().manual_seed(13), two_objects=1.0)
    images = world.render(asked, torch.Generator().manual_seed(14))
    row = asked[:, world.LAYOUT] == world.ROW
    ground = images[:, :, :1, :1]
    images[row, :, :, 32:] = ground[row]
    images[~row, :, 32:] = ground[~row]
    assert not checker.judge(images, asked).all.any()
    empty = ground.expand_as(images)
    assert not checker.judge(empty, asked).all.any()


def test_noise_alone_reads_as_nothing() -> None:
    noise = torch.rand(20, 3, 64, 64, generator=torch.Generator().manual_seed(15))
    assert (checker.read(noise)[:, world.SHAPE_1] == -1).all()


def test_a_size_that_cannot_be_pooled_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        checker.read(torch.zeros(1, 3, 72, 80))
