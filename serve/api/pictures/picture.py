"""Picture, Pictures: those of one request, once they are read."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.errors import InvalidRequest
from pipelines.pictures.recipe import MaskMeaning, PictureSource
from serve.api.pictures.heads import PictureHead
from serve.api.sizes import Size


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A file that came with a request, or was kept here: where it is, and what its head says."""

    source: PictureSource
    head: PictureHead

    @property
    def name(self) -> str:
        """The field that names it, such as `image[1]`."""
        return self.source.name

    @property
    def size(self) -> Size:
        """In pixels, as it is seen."""
        return Size(*self.head.upright)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """Those of one request, by what they are for; `problems` are of those that could not be read.

    `control` are the maps' files, in the order of the request's `control`.
    """

    images: tuple[Picture, ...] = ()
    references: tuple[Picture, ...] = ()
    mask: Picture | None = None
    mask_meaning: MaskMeaning = "white"
    control: tuple[Picture, ...] = ()
    problems: tuple[InvalidRequest, ...] = ()


NO_PICTURES = Pictures()
