"""Pictures fitted to the size that they are drawn at, as diffusers' image processor resizes."""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image

from pipelines.pictures.recipe import Fit


class Box(NamedTuple):
    """Where a fitted picture lies inside of its canvas, in pixels."""

    left: int
    top: int
    width: int
    height: int


def box_of(size: tuple[int, int], height: int, width: int, fit: Fit) -> Box:
    """Where a picture of `size` (width, height) lies on a canvas of `height` x `width`."""
    if fit == "stretch":
        return Box(0, 0, width, height)
    scale = min(width / size[0], height / size[1])
    inner = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    return Box((width - inner[0]) // 2, (height - inner[1]) // 2, *inner)


def fitted(
    picture: Image.Image,
    height: int,
    width: int,
    fit: Fit = "stretch",
    background: tuple[int, int, int] | int = (255, 255, 255),
) -> Image.Image:
    """`picture` (RGB or L) on a canvas of `height` x `width`.

    With Lanczos, straight to the size, as `VaeImageProcessor` does; one of that size already is
    returned as it is, to the byte.
    """
    box = box_of(picture.size, height, width, fit)
    if picture.size != box[2:]:
        picture = picture.resize(box[2:], resample=Image.Resampling.LANCZOS)
    if box == (0, 0, width, height):
        return picture
    canvas = Image.new(picture.mode, (width, height), background)
    canvas.paste(picture, box[:2])
    return canvas
