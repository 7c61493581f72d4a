"""How a picture that a client sent becomes what the image encoder encodes: said, not yet done.

Knows neither torch nor PIL: the ingress writes recipes, and an image encoder follows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from pipelines.tasks import PictureUse

Fit = Literal["stretch", "contain"]
"""To another size: by changing the ratio, as diffusers does, or with bars of the background."""

MaskMeaning = Literal["white", "transparent"]
"""Where a mask says to draw anew: where it is white (diffusers, vLLM-Omni, fal), or where its alpha
is 0 (OpenAI)."""


class Padding(NamedTuple):
    """Pixels around an image that outpainting adds, before it is fitted."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0


NO_PADDING = Padding()


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSource:
    """A picture's file as it came: its bytes, or the id under which the store has it; `sha256` is
    the hexadecimal digest of the bytes. `name` is the request's field, for messages."""

    sha256: str
    name: str
    data: bytes | None = None
    file_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureRecipe:
    """What is encoded for `use`: two equal ones of a tenant are encoded once.

    `source` is the picture; `mask` the mask's file where the role needs one beside the picture
    (`MASKED_IMAGE`). A `MASK` has the mask as its `source`, or None with `padding`, whose border is
    then the mask; the request's `IMAGE` tells its size. What is transparent becomes `background`.
    """

    use: PictureUse
    source: PictureSource | None
    mask: PictureSource | None = None
    mask_meaning: MaskMeaning = "white"
    fit: Fit = "stretch"
    padding: Padding = NO_PADDING
    background: tuple[int, int, int] = (255, 255, 255)
    tenant: str = ""
