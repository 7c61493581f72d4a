"""The JSON schema of a generation's body, with the ranges that hold on this server now.

`normalise.py` is what enforces them; a test posts both sides of every bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, get_args

from serve.api.dialects.foreign_names import IMAGE_SIZES
from serve.api.dialects.schema import with_containers, with_foreign_names
from serve.api.normalise import (
    MAX_GUIDANCE,
    MAX_IDENTIFIER_CHARS,
    MAX_PARTIAL_IMAGES,
    MAX_SEED,
    RANDOM_SEED,
)
from serve.api.schemas import (
    EDIT_SCHEMA,
    GENERATION_SCHEMA,
    HUGGING_FACE_EDIT_SCHEMA,
    JOB_SCHEMA,
    PREDICTION_SCHEMA,
    VARIATION_SCHEMA,
    ImageGenerationRequest,
)
from serve.api.services import Services
from serve.api.sizes import SizeRules
from serve.jobs.job import JobKind
from serve.settings.sections import MAX_PRIORITY, MIN_PRIORITY

Schema = dict[str, Any]

_INNER, _INNERMOST = "ImageGenerationFields", "ImageGenerationInnermostFields"
"""Of objects in the body, and of objects in those (`translation.py` takes no deeper ones)."""

_WEBHOOK_URL: Schema = {
    "anyOf": [{"type": "string"}, {"type": "null"}],
    "description": "Is told when the job is over, where the operator allows it.",
}

_OF_PREDICTIONS: Schema = {
    "version": {
        "anyOf": [{"type": "string"}, {"type": "null"}],
        "description": "The model, as OWNER/NAME or by its name here.",
    },
    "webhook": _WEBHOOK_URL,
    "webhook_completed": _WEBHOOK_URL,
    "webhook_events_filter": {
        "anyOf": [
            {
                "type": "array",
                "items": {"enum": ["start", "output", "logs", "completed"]},
                "minItems": 1,
            },
            {"type": "null"},
        ],
        "description": "`completed` is all that is sent.",
    },
    "stream": {"description": "Not used."},
}

_CONTROLS = r"\u0000-\u0008\u000b\u000c\u000e-\u001f"
_TEXT = f"^[^{_CONTROLS}]*$"
_PROMPT = rf"^[^{_CONTROLS}\u007f]*[^{_CONTROLS}\u007f\s][^{_CONTROLS}\u007f]*$"
"""Something beside blanks."""


def generation_schemas(services: Services) -> Mapping[str, Schema]:
    """The schemas of the body of `POST /v1/images/generations`, other tools' words included, and
    of the objects in it that hold further fields."""
    innermost = _fields(services)
    inner = with_containers(innermost, _reference(_INNERMOST))
    whole = with_containers(innermost, _reference(_INNER))
    # By another name or in a container it does too; to say so would show it as optional.
    generation: Schema = {**whole, "required": ["prompt"]}
    return {
        GENERATION_SCHEMA: generation,
        EDIT_SCHEMA: _edit(generation, EDIT_SCHEMA, ["prompt", "image"]),
        VARIATION_SCHEMA: _edit(generation, VARIATION_SCHEMA, ["image"]),
        HUGGING_FACE_EDIT_SCHEMA: {
            "title": HUGGING_FACE_EDIT_SCHEMA,
            "type": "object",
            "properties": {
                "inputs": generation["properties"]["image"],
                "parameters": _reference(_INNER),
            },
            "required": ["inputs"],
            "additionalProperties": False,
        },
        JOB_SCHEMA: {
            **generation,
            "title": JOB_SCHEMA,
            "properties": {
                **generation["properties"],
                "webhook_url": _WEBHOOK_URL,
                "kind": {
                    "enum": [*get_args(JobKind), None],
                    "description": "What it draws from; by default what comes says that.",
                },
            },
        },
        PREDICTION_SCHEMA: {
            "title": PREDICTION_SCHEMA,
            "type": "object",
            "properties": {"input": _reference(GENERATION_SCHEMA), **_OF_PREDICTIONS},
            "required": ["input"],
            "additionalProperties": False,
        },
        **_own_schema()["$defs"],
        _INNER: inner,
        _INNERMOST: innermost,
    }


def _own_schema() -> Schema:
    """Of our own fields, with the objects in them as `$defs`."""
    return ImageGenerationRequest.model_json_schema(ref_template="#/components/schemas/{model}")


def _edit(generation: Schema, title: str, required: list[str]) -> Schema:
    """The schema of a body that must have a picture."""
    image: Schema = generation["properties"]["image"]
    choices = [each for each in image["anyOf"] if each != {"type": "null"}]
    return {
        **generation,
        "title": title,
        "properties": {**generation["properties"], "image": {**image, "anyOf": choices}},
        "required": required,
    }


def _fields(services: Services) -> Schema:
    schema = _own_schema()
    schema.pop("$defs")  # they are components beside it
    ranges = _ranges(services)
    schema["properties"] = {
        name: _narrowed(described, ranges.get(name, {}))
        for name, described in schema["properties"].items()
    }
    rules = SizeRules.of(services.spec, services.settings.limits)
    return with_foreign_names(
        schema,
        side={
            "minimum": rules.min_side,
            "maximum": rules.max_side,
            "multipleOf": rules.multiple,
        },
        image_sizes=[name for name, size in IMAGE_SIZES.items() if rules.allows(size)],
    )


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _ranges(services: Services) -> Mapping[str, Schema]:
    """What of each field its type does not say."""
    settings = services.settings
    limits, deadlines = settings.limits, settings.deadlines
    steps: Schema = {"minimum": 1, "maximum": limits.max_steps}
    guidance: Schema = {"minimum": 0, "maximum": MAX_GUIDANCE}
    identifier: Schema = {"maxLength": MAX_IDENTIFIER_CHARS, "pattern": _TEXT}
    prompt_chars = limits.prompt_chars(services.spec)
    return {
        "prompt": {"minLength": 1, "maxLength": prompt_chars, "pattern": _PROMPT},
        "negative_prompt": {"maxLength": prompt_chars, "pattern": _TEXT},
        "model": {"enum": list(services.served_names)},
        "n": {"minimum": 1, "maximum": limits.max_images},
        "size": _size(SizeRules.of(services.spec, limits)),
        "output_compression": {"minimum": 0, "maximum": 100},
        # What is refused whatever else is said is not offered.
        "moderation": {"enum": ["auto"]},
        "partial_images": {"minimum": 0, "maximum": MAX_PARTIAL_IMAGES},
        "user": identifier,
        "safety_identifier": identifier,
        "true_cfg_scale": guidance,
        "guidance_scale": guidance,
        "strength": {"exclusiveMinimum": 0, "maximum": 1},
        "num_inference_steps": steps,
        "min_steps": steps,
        "seed": {"minimum": RANDOM_SEED, "maximum": MAX_SEED},
        "deadline_ms": {"minimum": 1, "maximum": deadlines.max_ms},
        "priority": {"minimum": MIN_PRIORITY, "maximum": MAX_PRIORITY},
    }


def _size(rules: SizeRules) -> Schema:
    first = -(-rules.min_side // rules.multiple) * rules.multiple
    sides = "|".join(map(str, range(first, rules.max_side + 1, rules.multiple)))
    return {
        "pattern": f"^(auto|({sides})[xX×]({sides}))$",
        "description": "`auto` (the model's own) or `WIDTHxHEIGHT`: multiples of"
        f" {rules.multiple} from {rules.min_side} to {rules.max_side}, and at most"
        f" {rules.max_pixels} pixels in all.",
        "examples": [str(rules.default)],
    }


def _narrowed(schema: Mapping[str, Any], ranges: Schema) -> Schema:
    """`schema` with `ranges` where its type is, which may be beside null."""
    narrow: Schema = deepcopy(dict(schema))
    about = {name: ranges[name] for name in ("description", "examples") if name in ranges}
    rest = {name: part for name, part in ranges.items() if name not in about}
    if "anyOf" in narrow:
        narrow["anyOf"] = [
            each if each == {"type": "null"} else {**each, **rest} for each in narrow["anyOf"]
        ]
    else:
        narrow |= rest
    return narrow | about
