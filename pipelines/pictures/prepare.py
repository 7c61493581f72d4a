"""Recipes followed: from files to pictures that the image encoder takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from pipelines.errors import InvalidRequest
from pipelines.pictures.encoded import PreparedPicture
from pipelines.pictures.masks import check_same_size, grey_mask, mask_at
from pipelines.pictures.outpainting import padded, padded_mask
from pipelines.pictures.pasting import paste_back
from pipelines.pictures.reading import (
    DEFAULT_LIMITS,
    PictureLimits,
    open_picture,
    rgb_over,
)
from pipelines.pictures.recipe import NO_PADDING, PictureRecipe, PictureSource
from pipelines.pictures.resizing import fitted
from pipelines.tasks import PictureRole


class Files:
    """The files that recipes name, each decoded once.

    `stored` has the bytes of those that a recipe names by file id, by SHA-256.
    """

    def __init__(
        self, stored: Mapping[str, bytes] | None = None, limits: PictureLimits = DEFAULT_LIMITS
    ) -> None:
        self._stored = stored or {}
        self._limits = limits
        self._opened: dict[str, Image.Image] = {}

    def open(self, source: PictureSource) -> Image.Image:
        """Raises InvalidRequest as `open_picture`; KeyError for a file that is not there."""
        if source.sha256 not in self._opened:
            data = source.data if source.data is not None else self._stored[source.sha256]
            self._opened[source.sha256] = open_picture(data, source.name, self._limits)
        return self._opened[source.sha256]


def prepare(
    recipe: PictureRecipe,
    files: Files,
    *,
    image: PictureSource | None = None,
    as_text: bool = False,
) -> PreparedPicture:
    """The picture of one recipe; `as_text` for a variation's reference.

    `image` is the request's image, whose size its mask must have. Raises InvalidRequest for a file
    that is no picture within bounds, and for a mask that does not fit its image.
    """
    use = recipe.use
    if use.role is PictureRole.MASK:
        return PreparedPicture(role=use.role, mask=_mask(recipe, recipe.source, image, files))
    assert recipe.source is not None
    mask = None
    if use.role is PictureRole.MASKED_IMAGE:
        mask = _mask(recipe, recipe.mask, recipe.source, files)
    picture = rgb_over(files.open(recipe.source), recipe.background)
    if recipe.padding != NO_PADDING:
        picture = padded(picture, recipe.padding, recipe.source.name)
    if not as_text:  # its model fits it by itself, from all its pixels
        picture = fitted(picture, use.height, use.width, recipe.fit, recipe.background)
    return PreparedPicture(role=use.role, pixels=np.asarray(picture), mask=mask, as_text=as_text)


def prepare_all(
    recipes: Sequence[PictureRecipe], files: Files, *, as_text: bool = False
) -> list[PreparedPicture]:
    """The pictures of all recipes of a request, in order. Raises InvalidRequest as `prepare`."""
    image = image_of(recipes)
    return [prepare(recipe, files, image=image, as_text=as_text) for recipe in recipes]


def image_of(recipes: Sequence[PictureRecipe]) -> PictureSource | None:
    """The request's image, if its task starts from one."""
    found = [each.source for each in recipes if each.use.role is PictureRole.IMAGE]
    return found[0] if found else None


def paste_drawing(drawn: np.ndarray, recipes: Sequence[PictureRecipe], files: Files) -> np.ndarray:
    """`drawn` (height, width, 3), uint8, put into the request's image where its mask says
    (`pipelines.pictures.pasting`). Raises ValueError for a request without image and mask."""
    made = {
        each.use.role: prepare(each, files, image=image_of(recipes))
        for each in recipes
        if each.use.role in (PictureRole.IMAGE, PictureRole.MASK)
    }
    if len(made) != 2:
        raise ValueError("recipes: there is no image with a mask to paste into")
    pixels, mask = made[PictureRole.IMAGE].pixels, made[PictureRole.MASK].mask
    assert pixels is not None
    assert mask is not None
    return paste_back(drawn, pixels, mask)


def _mask(
    recipe: PictureRecipe,
    source: PictureSource | None,
    image: PictureSource | None,
    files: Files,
) -> np.ndarray:
    """(height, width), bool: of the mask's file, and of the padding around it."""
    use, size, grey = recipe.use, None, None
    if image is not None:
        size = files.open(image).size
    if source is not None:
        grey = grey_mask(files.open(source), recipe.mask_meaning, source.name)
        if size is not None:
            check_same_size(size, grey.size, source.name)
        size = grey.size
    if size is None:
        raise InvalidRequest("mask: there is no image that it could be of", param="image")
    if recipe.padding != NO_PADDING:
        grey = padded_mask(grey, size, recipe.padding)
    if grey is None:
        raise InvalidRequest("mask: is missing; send one, or padding", param="mask")
    return mask_at(grey, use.height, use.width, recipe.fit)
