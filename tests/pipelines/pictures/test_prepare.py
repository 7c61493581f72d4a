"""Recipes followed, and drawings put back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.errors import InvalidRequest
from pipelines.pictures.masks import is_empty
from pipelines.pictures.pasting import colour_shift, paste_back, soft_edge
from pipelines.pictures.prepare import Files, paste_drawing, prepare, prepare_all
from pipelines.pictures.recipe import Padding, PictureRecipe
from pipelines.tasks import PictureRole, PictureUse
from tests.pipelines.pictures.files import encoded, gradient, source

RGB = gradient()
IMAGE = source(encoded(RGB))


def use(role: PictureRole, height: int = 24, width: int = 40) -> PictureUse:
    return PictureUse(role=role, height=height, width=width)


def recipe(role: PictureRole, **fields: Any) -> PictureRecipe:
    return PictureRecipe(**{"use": use(role), "source": IMAGE, **fields})


def same(found: np.ndarray | None, expected: np.ndarray) -> bool:
    return found is not None and np.array_equal(found, expected)


def box() -> np.ndarray:
    mask = np.zeros(RGB.shape[:2], bool)
    mask[6:15, 10:30] = True
    return mask


def white(mask: np.ndarray) -> bytes:
    return encoded(mask.astype(np.uint8) * 255)


def test_a_picture_of_the_size_is_kept_and_another_is_resized_as_diffusers_does() -> None:
    made = prepare(recipe(PictureRole.IMAGE), Files())
    assert made.pixels is not None
    assert same(made.pixels, RGB)
    assert made.mask is None
    larger = recipe(PictureRole.IMAGE, use=use(PictureRole.IMAGE, 48, 64))
    expected = Image.fromarray(RGB).resize((64, 48), Image.Resampling.LANCZOS)
    assert same(prepare(larger, Files()).pixels, np.asarray(expected))


def test_a_picture_that_becomes_text_keeps_all_its_pixels() -> None:
    smaller = recipe(PictureRole.REFERENCE, use=use(PictureRole.REFERENCE, 16, 16))
    made = prepare(smaller, Files(), as_text=True)
    assert made.as_text
    assert same(made.pixels, RGB)


def test_bars_keep_the_ratio_and_say_their_colour() -> None:
    tall = recipe(
        PictureRole.REFERENCE,
        use=use(PictureRole.REFERENCE, 64, 80),
        fit="contain",
        background=(1, 2, 3),
    )
    pixels = prepare(tall, Files()).pixels
    assert pixels is not None
    assert (pixels[:8] == (1, 2, 3)).all()
    assert (pixels[-8:] == (1, 2, 3)).all()
    assert not (pixels[8:56] == (1, 2, 3)).all(axis=2).any()


def test_both_worlds_masks_say_the_same() -> None:
    mask = box()
    alpha = np.where(mask, 0, 255).astype(np.uint8)
    transparent = source(encoded(np.dstack([RGB, alpha])), "mask")
    ours = recipe(PictureRole.MASK, source=source(white(mask), "mask"))
    theirs = recipe(PictureRole.MASK, source=transparent, mask_meaning="transparent")
    for each in (ours, theirs):
        found = prepare(each, Files(), image=IMAGE).mask
        assert found is not None
        assert np.array_equal(found, mask)
    opaque = replace(theirs, source=source(encoded(RGB), "mask"))
    with pytest.raises(InvalidRequest, match="mask: has no transparency") as refused:
        prepare(opaque, Files(), image=IMAGE)
    assert refused.value.param == "mask"
    nothing = replace(ours, source=source(white(mask & False), "mask"))
    found = prepare(nothing, Files(), image=IMAGE).mask
    assert found is not None
    assert is_empty(found)
    assert not is_empty(mask)


@pytest.mark.parametrize("role", [PictureRole.MASK, PictureRole.MASKED_IMAGE])
def test_a_mask_of_another_size_is_refused(role: PictureRole) -> None:
    other = source(white(np.ones((24, 41), bool)), "mask")
    fields = {"source": other} if role is PictureRole.MASK else {"mask": other}
    with pytest.raises(InvalidRequest, match="mask: is 41x24, and the image 40x24") as refused:
        prepare_all([recipe(PictureRole.IMAGE), recipe(role, **fields)], Files())
    assert refused.value.param == "mask"


def test_outpainting_pads_the_image_and_masks_the_border() -> None:
    padding = Padding(left=8, top=0, right=16, bottom=24)
    sized = {"padding": padding}
    recipes = [
        recipe(PictureRole.IMAGE, use=use(PictureRole.IMAGE, 48, 64), **sized),
        recipe(PictureRole.MASK, use=use(PictureRole.MASK, 48, 64), source=None, **sized),
        recipe(
            PictureRole.MASKED_IMAGE,
            use=use(PictureRole.MASKED_IMAGE, 48, 64),
            mask=source(white(box()), "mask"),
            **sized,
        ),
    ]
    image, mask, masked = prepare_all(recipes, Files())
    assert image.pixels is not None
    assert mask.mask is not None
    assert masked.mask is not None
    assert np.array_equal(image.pixels[:24, 8:48], RGB)
    assert (image.pixels[24:, 8:48] == RGB[-1:]).all()
    inside = np.zeros((48, 64), bool)
    inside[:24, 8:48] = True
    assert np.array_equal(mask.mask, ~inside)
    assert np.array_equal(masked.mask[:24, 8:48], box())
    with pytest.raises(InvalidRequest, match="padding: makes"):
        prepare(replace(recipes[0], padding=Padding(left=10_000)), Files())
    with pytest.raises(InvalidRequest, match="below 0"):
        prepare(replace(recipes[0], padding=Padding(left=-1)), Files())


def test_stored_files_are_found_by_their_hash() -> None:
    stored = replace(IMAGE, data=None, file_id="file-1")
    files = Files({stored.sha256: encoded(RGB)})
    assert same(prepare(recipe(PictureRole.IMAGE, source=stored), files).pixels, RGB)


def test_pixels_outside_of_the_mask_are_the_images_own() -> None:
    drawn = np.full_like(RGB, 77)
    recipes = [
        recipe(PictureRole.IMAGE),
        recipe(PictureRole.MASK, source=source(white(box()), "mask")),
    ]
    pasted = paste_drawing(drawn, recipes, Files())
    assert np.array_equal(pasted[~box()], RGB[~box()])
    expected = RGB[10, 20] + 5 / 6 * (77.0 - RGB[10, 20])
    assert list(pasted[10, 20]) == pytest.approx(list(expected), abs=1), "five pixels inside"
    assert np.array_equal(paste_back(drawn, RGB, box() & False), RGB)
    with pytest.raises(ValueError, match="no image with a mask"):
        paste_drawing(drawn, recipes[:1], Files())
    with pytest.raises(ValueError, match="do not fit"):
        paste_back(drawn[1:], RGB, box())


def large_box() -> np.ndarray:
    mask = np.zeros((96, 96), bool)
    mask[24:72, 24:72] = True
    return mask


def test_the_edge_is_soft_inside_the_mask_only() -> None:
    mask = large_box()
    edge = soft_edge(mask)
    assert (edge[~mask] == 0).all()
    assert edge[48, 48] == 1
    assert list(edge[48, 24:31]) == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1])
    whole = np.ones((40, 40), bool)
    assert (soft_edge(whole) == 1).all(), "the picture's border hides nothing"


def test_a_tint_that_all_of_the_seam_has_is_taken_back() -> None:
    generator = np.random.default_rng(0)
    image = generator.integers(60, 200, (96, 96, 3)).astype(np.uint8)
    noise = generator.integers(-2, 3, image.shape)
    drawn = (image + np.array([9, -6, 0]) + noise).astype(np.uint8)
    assert list(colour_shift(drawn, image, large_box())) == pytest.approx([-9, 6, 0], abs=1)
    pasted = paste_back(drawn, image, large_box()).astype(int)
    assert abs((pasted - image)[32:64, 32:64].mean(axis=(0, 1))).max() < 1


def test_an_object_that_the_mask_cuts_tints_nothing() -> None:
    """Its part outside is another colour in the drawing: on one side, on two, or around it all."""
    image = np.full((96, 96, 3), 120, np.uint8)
    for rows in (slice(0, 96), slice(0, 40), slice(40, 60)):
        drawn = image.copy()
        drawn[rows, :40] = (200, 40, 40)
        assert not colour_shift(drawn, image, large_box()).any(), rows
        inside = paste_back(drawn, image, large_box())[44:52, 50:60]
        assert (inside == 120).all()
    assert not colour_shift(image + 40, image, large_box()).any(), "another picture, and no tint"
    noisy = np.random.default_rng(1).integers(0, 255, image.shape).astype(np.uint8)
    assert not colour_shift(noisy, image, large_box()).any()


def test_a_tint_that_one_side_has_not_is_left() -> None:
    image = np.full((96, 96, 3), 120, np.uint8)
    drawn = image + np.uint8(9)
    assert list(colour_shift(drawn, image, large_box())) == [-9, -9, -9]
    drawn[:, :24] = 120
    assert not colour_shift(drawn, image, large_box()).any()
