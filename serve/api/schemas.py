"""What the images route reads and writes: JSON types only, one class each way.

Types are strict: a string is not a number, a boolean is not an integer, NaN and Infinity are not
numbers. Which *values* a model and this server allow is `normalise.py`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from pipelines.errors import InvalidRequest
from serve.api.complaints import complaint
from serve.api.dialects.translation import Given, Translation, translate
from serve.api.pictures.fields import Background, PictureFields

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


StepCount = Annotated[int, Field(json_schema_extra={"minimum": 1})]
"""Checked with the others around it, in `normalise.py`."""


class ImageGenerationRequest(PictureFields):
    """What is asked for on every route that draws: pictures to draw from, OpenAI's fields, then our
    extensions. null means absent."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    prompt: Text = Field(description="What to draw. May hold `--ar 16:9` and start with `[GEN]`.")
    model: str | None = Field(default=None, description="The served model; absent means that one.")
    n: int = Field(default=1, description="Images; image i is drawn with seed + i.")
    size: str = Field(default="auto", description="`auto` (the model's own) or `WIDTHxHEIGHT`.")
    aspect_ratio: str | None = Field(
        default=None,
        pattern="^[0-9]{1,4}:[0-9]{1,4}$",
        description="`W:H`, 1:3 to 3:1: a size of the model's own area; as `--ar` in the prompt.",
    )
    quality: Quality = Field(
        default="auto",
        description="Step preset; auto is medium. low takes some steps without a forward.",
    )
    output_format: OutputFormat = "png"
    output_compression: int = Field(
        default=95, description="0..100, the quality of jpeg and webp; png is lossless."
    )
    background: Background = Field(
        default="auto",
        description="A colour such as `#ffffff` stands behind what is transparent in pictures that"
        " come in; what is drawn is opaque.",
    )
    moderation: Literal["auto", "low"] = "auto"
    response_format: Literal["b64_json", "url", "file"] | None = Field(
        default=None,
        description="Absent: both `b64_json` and `url`. `file`: the image itself instead of JSON,"
        " several of them as a zip.",
    )
    user: Text | None = Field(
        default=None,
        description="The tenant, where no gateway names it: fairness, places, sharing.",
    )
    safety_identifier: Text | None = Field(
        default=None, description="As `user`, over which it takes precedence."
    )
    stream: bool = Field(
        default=False,
        description="Events instead of JSON: partial images, then each image in base64.",
    )
    partial_images: int = Field(
        default=0,
        description="0..3, with `stream`: previews of each image, evenly over its steps; fewer"
        " where the server has no time for them.",
    )
    style: Literal["vivid", "natural"] | None = Field(
        default=None, description="Not used: there are no style presets."
    )

    negative_prompt: Text | None = Field(
        default=None, description="What to avoid; needs true_cfg_scale > 1."
    )
    prompt_weighting: bool | None = Field(
        default=None,
        description="Whether `(words:1.3)` in the prompts makes words count more or less: weights 0"
        " to 2, `(words)` is 1.1, inside each other they multiply, `\\(` is a plain parenthesis."
        " Absent: as the model has it, which is off.",
    )
    true_cfg_scale: float = Field(
        default=1.0, description="Classifier-free guidance; a second forward per step above 1."
    )
    num_inference_steps: int | None = Field(default=None, description="Overrides `quality`.")
    guidance_scale: float | None = None
    seed: int | None = Field(default=None, description="Drawn at random when absent, or -1.")
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
    step_cuts: list[Annotated[list[StepCount], Field(min_length=2, max_length=2)]] | None = Field(
        default=None,
        description="Cuts of the schedule, [steps done, steps in all] each, as `min_steps` makes"
        " them: to draw again what was cut. A file's metadata has its own.",
    )
    skip_steps: bool | None = Field(
        default=None,
        description="Whether to take some steps without a forward; absent: with quality low.",
    )

    return_stage_metrics: bool = Field(
        default=False, description="Whether the answer says in `metrics` what `server-timing` does."
    )

    _notes: tuple[str, ...] = PrivateAttr(default=())
    _meant: Mapping[str, str] = PrivateAttr(default_factory=dict[str, str])
    _uploads: Mapping[str, bytes] = PrivateAttr(default_factory=dict[str, bytes])
    _is_variation: bool = PrivateAttr(default=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the body said in other tools' words without effect: the first of the warnings."""
        return self._notes

    @property
    def meant(self) -> Mapping[str, str]:
        """Every place of the body with a value, and the field here that it was taken for: its own
        place where there is none."""
        return self._meant

    @property
    def uploads(self) -> Mapping[str, bytes]:
        """The files that came with it, by what stands for them in its fields."""
        return self._uploads

    @property
    def is_variation(self) -> bool:
        """Whether it asks for a picture like its image, whatever the prompt says."""
        return self._is_variation


GENERATION_SCHEMA = "ImageGenerationRequest"

EDIT_SCHEMA = "ImageEditRequest"
VARIATION_SCHEMA = "ImageVariationRequest"
JOB_SCHEMA = "JobRequest"
PREDICTION_SCHEMA = "PredictionRequest"


def body_of(schema: str) -> dict[str, Any]:
    """`openapi_extra` of a route whose body is of that schema."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"requestBody": {"required": True, "content": content}}


def _body_or_form(schema: str) -> dict[str, Any]:
    """The same, as a form as well."""
    content = {
        media_type: {"schema": {"$ref": f"#/components/schemas/{schema}"}}
        for media_type in ("application/json", "multipart/form-data")
    }
    return {"requestBody": {"required": True, "content": content}}


EDIT_BODY = _body_or_form(EDIT_SCHEMA)
VARIATION_BODY = _body_or_form(VARIATION_SCHEMA)
JOB_BODY = _body_or_form(JOB_SCHEMA)
"""Of forms too: a file stands where JSON has a picture, and numbers are text."""

HUGGING_FACE_EDIT_SCHEMA = "ImageToImageRequest"
HUGGING_FACE_EDIT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": f"#/components/schemas/{HUGGING_FACE_EDIT_SCHEMA}"}
            },
            **{
                f"image/{kind}": {"schema": {"type": "string", "format": "binary"}}
                for kind in ("png", "jpeg", "webp")
            },
        },
    }
}
"""Of Hugging Face's task: the picture alone, or JSON with it as `inputs`."""

GENERATION_BODY = body_of(GENERATION_SCHEMA)
"""Documents the body of a route that reads it by hand, strictly. The schema, with other tools'
words and this server's ranges, is `openapi/generation_fields.py`'s."""


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
    """Tokens in, of texts (negative prompt included) and of pictures; latent tokens out.

    `prompt_tokens_details` is what other servers call `input_tokens_details`. `device_seconds` are
    the denoiser's share of its time, and `megapixel_steps` its steps times the image's megapixels,
    of all images; 0 where the answer was kept from an equal request before.
    """

    input_tokens: int
    input_tokens_details: InputTokens
    prompt_tokens_details: InputTokens
    output_tokens: int
    output_tokens_details: OutputTokens
    total_tokens: int
    device_seconds: float = 0.0
    megapixel_steps: float = 0.0


class ImagesResponse(BaseModel):
    """OpenAI's response, what clients of other servers read (`id`, `inference_time_s`, `metrics`),
    and our `seed`, `warnings`, `model` and `deadline_met`.

    `quality` is missing when the request named its steps itself.
    """

    id: str = Field(description="As the header `x-request-id`.")
    created: int
    model: str
    data: list[ImageData]
    background: Literal["opaque"] = "opaque"
    output_format: OutputFormat
    quality: Literal["low", "medium", "high"] | None = None
    size: str
    usage: UsageReport
    deadline_met: bool | None = Field(
        default=None,
        description="Whether the answer was there in time, by `deadline_ms` or the server's"
        " default. Absent: there was no deadline.",
    )
    inference_time_s: float | None = Field(
        default=None, description="Seconds from prompt to files; absent for an answer kept."
    )
    metrics: dict[str, float] | None = Field(
        default=None, description="With `return_stage_metrics`: milliseconds by phase."
    )
    warnings: list[str]


NO_UPLOADS: Mapping[str, bytes] = {}


def parse_request(
    body: Mapping[str, Any],
    uploads: Mapping[str, bytes] = NO_UPLOADS,
    *,
    is_variation: bool = False,
) -> ImageGenerationRequest:
    """`body` in our words and of the right types; null counts as absent. `uploads` are the files
    that stand in it (`pictures/uploads.py`). A variation may do without a prompt.

    Raises UnsupportedFeature for a field known from elsewhere, InvalidRequest for an unknown one
    (naming the nearest known), for two that contradict each other and for a value of the wrong
    type; where there are several mistakes, all are told.
    """
    found = translate(body, ImageGenerationRequest.model_fields)
    if is_variation and "prompt" not in found.fields:
        found.fields["prompt"] = Given("", "prompt")
    try:
        request = ImageGenerationRequest.model_validate(
            {name: given.value for name, given in found.fields.items()}
        )
    except ValidationError as error:
        for problem in _type_problems(error, found):
            found.problems.add(problem)
        found.problems.tell()
        raise AssertionError("a validation error has at least one error") from error
    found.problems.tell()
    request._notes = tuple(found.notes)  # pyright: ignore[reportPrivateUsage]
    request._meant = found.meant  # pyright: ignore[reportPrivateUsage]
    request._uploads = uploads  # pyright: ignore[reportPrivateUsage]
    request._is_variation = is_variation  # pyright: ignore[reportPrivateUsage]
    return request


def _type_problems(error: ValidationError, found: Translation) -> list[InvalidRequest]:
    """For each field of the wrong type the first of its mistakes, in the words of this API."""
    problems: dict[str, InvalidRequest] = {}
    for each in error.errors(include_url=False):
        param, *inside = each["loc"]
        param = str(param)
        path = found.fields[param].path if param in found.fields else param
        where = param + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in inside)
        if path != param:
            where = f"{where} (sent as {path})"
        problem = InvalidRequest(f"{where}: {complaint(each)}", param=param)
        problems.setdefault(param, problem)
    return list(problems.values())
