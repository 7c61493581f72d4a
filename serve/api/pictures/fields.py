"""The fields of a request that are about pictures, as JSON has them.

A picture is written as text: a data URL, the id of a file of this server, a URL, or `upload:` and a
digest, which stands for a file that came with the request itself (`uploads.py`). OpenAI's objects
`{"image_url": ...}` and `{"file_id": ...}` mean the same.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from pipelines.pictures.recipe import Padding
from serve.settings.pictures import MAX_PICTURES

_NAMES = ("image_url", "file_id", "url")
_COLOUR = "#[0-9a-fA-F]{6}"
_REFERENCE: dict[str, Any] = {
    "description": "A data URL, the id of one of your files here, or a URL that the operator"
    " allows; or an object with one of these.",
    "anyOf": [
        {"type": "string", "pattern": "^(data:image/|https?://|[0-9a-f]{32})"},
        {
            "type": "object",
            "properties": {"image_url": {"type": "string", "pattern": "^(data:image/|https?://)"}},
            "required": ["image_url"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {"file_id": {"type": "string", "pattern": "^[0-9a-f]{32}"}},
            "required": ["file_id"],
            "additionalProperties": False,
        },
    ],
}


def _reference(value: object) -> object:
    """OpenAI's objects as the text in them, also as chat messages have them, `image_url.url`."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        said = cast("dict[str, object]", value)
        named = [name for name in _NAMES if said.get(name) is not None]
        others = said.keys() - {*_NAMES, "type", "detail"}
        if len(named) == 1 and not others:
            inner = said[named[0]]
            if isinstance(inner, dict):
                inner = cast("dict[str, object]", inner).get("url")
            if isinstance(inner, str):
                return inner
    raise ValueError("must be text, or an object with either image_url or file_id")


def _references(value: object) -> object:
    """One, or several, as a tuple."""
    if isinstance(value, list | tuple):
        return tuple(cast("list[object]", value))
    return (value,)


def _list(value: object) -> object:
    return [cast("dict[str, object]", value)] if isinstance(value, dict) else value


Reference = Annotated[str, BeforeValidator(_reference), WithJsonSchema(_REFERENCE)]
References = Annotated[
    tuple[Reference, ...],
    Field(min_length=1, max_length=MAX_PICTURES),
    BeforeValidator(_references),
    WithJsonSchema(
        {
            "anyOf": [
                _REFERENCE,
                {
                    "type": "array",
                    "items": _REFERENCE,
                    "minItems": 1,
                    "maxItems": MAX_PICTURES,
                },
            ]
        }
    ),
]

Background = Annotated[
    str,
    Field(pattern=f"^(auto|opaque|transparent|{_COLOUR})$"),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "enum": ["auto", "opaque"]},
                {"type": "string", "pattern": f"^{_COLOUR}$"},
            ]
        }
    ),
]

_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ControlMap(BaseModel):
    """A map that a ControlNet, or a model made for it, goes by."""

    model_config = _STRICT

    image: Reference
    kind: str = Field(
        default="",
        pattern="^[a-z0-9_-]{0,32}$",
        description="Such as `canny` or `depth`; may be left out where one kind alone is served.",
    )
    scale: float = Field(default=1.0, ge=0, le=2, description="How strongly it counts.")
    start: float = Field(default=0.0, ge=0, le=1, description="From which share of the steps on.")
    end: float = Field(default=1.0, ge=0, le=1, description="To which share of the steps.")


class Outpaint(BaseModel):
    """Pixels that are added around the image, and drawn."""

    model_config = _STRICT

    left: int = Field(default=0, ge=0, le=4096)
    top: int = Field(default=0, ge=0, le=4096)
    right: int = Field(default=0, ge=0, le=4096)
    bottom: int = Field(default=0, ge=0, le=4096)

    @property
    def padding(self) -> Padding:
        return Padding(self.left, self.top, self.right, self.bottom)


class PictureFields(BaseModel):
    """What a generation may draw from besides a prompt. null means absent."""

    image: References | None = Field(
        default=None,
        description=f"The picture to edit, or several to look at, up to {MAX_PICTURES}.",
    )
    mask: Reference | None = Field(
        default=None,
        description="As large as the image: what is transparent in it is drawn anew.",
    )
    mask_image: Reference | None = Field(
        default=None, description="As large as the image: what is white in it is drawn anew."
    )
    reference_image: References | None = Field(
        default=None, description="Pictures to look at, beside the image to edit or without one."
    )
    strength: float | None = Field(
        default=None,
        description="0..1: how far the image goes back to noise; 1 leaves nothing of it.",
    )
    control: (
        Annotated[list[ControlMap], BeforeValidator(_list), Field(max_length=MAX_PICTURES)] | None
    ) = Field(default=None, description="Maps of edges, depth and the like to go by.")
    outpaint: Outpaint | None = Field(
        default=None, description="Pixels to add around the image; the prompt says of what."
    )
    paste_back: bool | None = Field(
        default=None,
        description="With a mask or outpaint: whether all else stays the image's own, pixel by"
        " pixel; it does unless this is false.",
    )
    input_fidelity: Literal["low", "high"] | None = Field(
        default=None, description="Not used: `strength` says how much of the image is kept."
    )

    @property
    def has_pictures(self) -> bool:
        """Whether there is anything to draw from besides the prompt."""
        return bool(self.image or self.mask or self.mask_image or self.reference_image) or bool(
            self.control
        )


def background_rgb(background: str) -> tuple[int, int, int]:
    """The colour that a `background` stands for, 0..255 each; white where it names none."""
    if not background.startswith("#"):
        return (255, 255, 255)
    red, green, blue = (int(background[at : at + 2], 16) for at in (1, 3, 5))
    return (red, green, blue)
