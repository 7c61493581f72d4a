"""What the images route reads and writes: JSON types only, one class each way.

Types are strict: a string is not a number, a boolean is not an integer, NaN and Infinity are not
numbers. Which *values* a model and this server allow is `normalise.py`'s business.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from pipelines.errors import InvalidRequest, UnsupportedFeature

OutputFormat = Literal["png", "jpeg", "webp"]
Quality = Literal["auto", "low", "medium", "high"]


def _printable(text: str) -> str:
    for character in text:
        if character < " " and character not in "\t\n\r":
            raise ValueError(f"must not hold the control character U+{ord(character):04X}")
        if "\ud800" <= character <= "\udfff":
            raise ValueError(f"must not hold the lone surrogate U+{ord(character):04X}")
    return text


Text = Annotated[str, AfterValidator(_printable)]
"""A string that can be tokenized, logged and written into a file's metadata."""


class ImageGenerationRequest(BaseModel):
    """`POST /v1/images/generations`: OpenAI's fields, then our extensions. null means absent."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    prompt: Text = Field(description="What to draw. May hold `--ar 16:9` and start with `[GEN]`.")
    model: str | None = Field(default=None, description="The served model; absent means that one.")
    n: int = Field(default=1, description="Images; image i is drawn with seed + i.")
    size: str = Field(default="auto", description="`auto` (the model's own) or `WIDTHxHEIGHT`.")
    quality: Quality = Field(
        default="auto",
        description="Step preset; auto is medium. low takes some steps without a forward.",
    )
    output_format: OutputFormat = "png"
    output_compression: int = Field(
        default=95, description="0..100, the quality of jpeg and webp; png is lossless."
    )
    background: Literal["auto", "opaque", "transparent"] = "auto"
    moderation: Literal["auto", "low"] = "auto"
    response_format: Literal["b64_json", "url"] | None = Field(
        default=None, description="Absent: both."
    )
    user: Text | None = Field(
        default=None,
        description="The tenant, where no gateway names it: fairness, places, sharing.",
    )
    safety_identifier: Text | None = Field(
        default=None, description="As `user`, over which it takes precedence."
    )
    stream: bool = False
    partial_images: int = 0
    style: str | None = None

    negative_prompt: Text | None = Field(
        default=None, description="What to avoid; needs true_cfg_scale > 1."
    )
    true_cfg_scale: float = Field(
        default=1.0, description="Classifier-free guidance; a second forward per step above 1."
    )
    num_inference_steps: int | None = Field(default=None, description="Overrides `quality`.")
    guidance_scale: float | None = None
    seed: int | None = Field(default=None, description="Drawn at random when absent.")
    deadline_ms: int | None = Field(
        default=None,
        description="The whole request should be answered within so many milliseconds of its"
        " arrival; 429 `deadline_unreachable` where that cannot be promised.",
    )
    priority: int | None = Field(
        default=None, description="-10..10; larger goes first where not all can be on time."
    )
    min_steps: int | None = Field(
        default=None,
        description="Allows fewer steps, but no fewer than this, where that keeps the deadline.",
    )
    step_cuts: list[Annotated[list[int], Field(min_length=2, max_length=2)]] | None = Field(
        default=None,
        description="Cuts of the schedule, [steps done, steps in all] each, as `min_steps` makes"
        " them: to draw again what was cut. A file's metadata has its own.",
    )
    skip_steps: bool | None = Field(
        default=None,
        description="Whether to take some steps without a forward; absent: with quality low.",
    )


GENERATION_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": ImageGenerationRequest.model_json_schema()}},
    }
}
"""Documents the body of a route that reads it by hand, strictly."""


class ImageData(BaseModel):
    """One image of a response."""

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = None
    seed: int
    steps: int | None = Field(default=None, description="Forwards that were really run.")


class InputTokens(BaseModel):
    text_tokens: int
    image_tokens: int = 0


class OutputTokens(BaseModel):
    image_tokens: int
    text_tokens: int = 0


class UsageReport(BaseModel):
    """Text tokens in (negative prompt included), latent tokens out."""

    input_tokens: int
    input_tokens_details: InputTokens
    output_tokens: int
    output_tokens_details: OutputTokens
    total_tokens: int


class ImagesResponse(BaseModel):
    """OpenAI's response and our `seed`, `warnings`, `model` and `deadline_met`.

    `quality` is None when the request named its steps itself.
    """

    created: int
    model: str
    data: list[ImageData]
    background: Literal["opaque"] = "opaque"
    output_format: OutputFormat
    quality: Literal["low", "medium", "high"] | None
    size: str
    usage: UsageReport
    deadline_met: bool | None = Field(
        default=None,
        description="Whether the answer was there in time, by `deadline_ms` or the server's"
        " default. Absent: there was no deadline.",
    )
    warnings: list[str]


_ELSEWHERE: Mapping[str, str] = {
    "complexity": "this server has no planning model",
    "frame_count": "this server draws still images",
    "frame_duration_ms": "this server draws still images",
    "image": "this server does not edit images",
    "input_fidelity": "this server does not edit images",
    "lora": "this version has no adapters",
    "mask": "this server does not edit images",
    "strength": "this server does not edit images",
}
"""Fields that clients of such servers send, and why they cannot be honoured here."""


def parse_request(body: Mapping[str, Any]) -> ImageGenerationRequest:
    """Check the types of `body`'s fields; null counts as absent.

    Raises UnsupportedFeature for a field known from elsewhere, InvalidRequest for an unknown one
    (naming the nearest known) and for a value of the wrong type.
    """
    given = {name: value for name, value in body.items() if value is not None}
    for name in given:
        if name in _ELSEWHERE:
            raise UnsupportedFeature(f"{name}: {_ELSEWHERE[name]}; leave it out", param=name)
        if name not in ImageGenerationRequest.model_fields:
            raise InvalidRequest(_unknown_field(name), param=name[:80])
    try:
        return ImageGenerationRequest.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        param = str(first["loc"][0])
        raise InvalidRequest(f"{param}: {_complaint(first)}", param=param) from None


def _unknown_field(name: str) -> str:
    known = list(ImageGenerationRequest.model_fields)
    near = difflib.get_close_matches(name[:80], known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known fields: {', '.join(known)}"
    return f"{name[:80]}: unknown field; {hint}"


def _complaint(error: ErrorDetails) -> str:
    if error["type"] == "missing":
        return "required, and it is missing"
    context = error.get("ctx", {})
    wanted = {
        "int_type": "must be an integer",
        "float_type": "must be a finite number",
        "finite_number": "must be a finite number",
        "string_type": "must be a string",
        "bool_type": "must be true or false",
        "literal_error": f"must be one of {context.get('expected')}",
        "value_error": str(context.get("error")),
    }.get(error["type"], error["msg"])
    return f"{wanted}, got {_shown(error['input'])}"


def _shown(value: object) -> str:
    """`value` as the client wrote it, short."""
    if isinstance(value, list | dict):
        return "an array" if isinstance(value, list) else "an object"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
