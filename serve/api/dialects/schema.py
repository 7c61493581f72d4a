"""The JSON schema of a body that may be written in other tools' words.

Made from `foreign_names.py`, so that the API's document lists all that `translation.py` accepts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from serve.api.dialects.foreign_names import (
    CONTAINERS,
    CONTROL_WORDS,
    FOREIGN_FIELDS,
    FOREIGN_VALUES,
    NotOffered,
    NotUsed,
    Same,
)

Schema = dict[str, Any]


def with_foreign_names(
    schema: Mapping[str, Any], *, side: Schema, image_sizes: Sequence[str]
) -> Schema:
    """`schema` of an object with our fields, and all that is accepted besides; null is absent.

    `side` is the range of a width or height, `image_sizes` are the names that are within it.
    """
    side = {"type": "integer", **side}
    whole = deepcopy(dict(schema))
    own: dict[str, Schema] = whole["properties"]
    for name, values in FOREIGN_VALUES.items():
        own[name] = _or(own[name], {"enum": list(values)})
    own["aspect_ratio"] = _or(
        own["aspect_ratio"],
        {"const": "custom", "description": "With `width` and `height`: what they say."},
    )
    own["seed"] = _or(
        own["seed"],
        {
            "type": "array",
            "items": {"type": "integer", **_range_of(own["seed"])},
            "minItems": 1,
            "description": "The seeds of all `n` images, one after the other.",
        },
    )
    foreign = {
        name: described
        for name, row in FOREIGN_FIELDS.items()
        if (described := _described(row, own)) is not None
    }
    for name, field in CONTROL_WORDS.items():
        foreign[name] = {"description": f"As `{field}` of the only entry of `control`."}
    foreign["image_size"] = {
        "description": "As `size`.",
        "anyOf": [
            *([{"enum": list(image_sizes)}] if image_sizes else []),
            {
                "type": "object",
                "properties": {"width": side, "height": side},
                "required": ["width", "height"],
                "additionalProperties": False,
            },
            {name: own["size"][name] for name in ("type", "pattern") if name in own["size"]},
        ],
    }
    side["description"] = "Pixels; `width` and `height` are a `size`."
    properties = {**own, "width": side, "height": side, **foreign}
    required: list[str] = whole.pop("required")
    whole["properties"] = {
        name: each if name in required else _or(each, {"type": "null"})
        for name, each in properties.items()
    }
    whole["dependentRequired"] = {"width": ["height"], "height": ["width"]}
    return whole


def with_containers(fields: Schema, inner: Schema) -> Schema:
    """`fields`, and `inner` in each of the containers."""
    whole = deepcopy(fields)
    for name in CONTAINERS:
        whole["properties"][name] = _or(
            {**inner, "description": "Its entries count as fields of the request itself."},
            {"type": "null"},
        )
    return whole


def _described(row: object, own: Mapping[str, Schema]) -> Schema | None:
    """What a row accepts, None for nothing."""
    match row:
        case Same(field):
            same = {name: part for name, part in own[field].items() if name != "default"}
            return {**same, "description": f"As `{field}`."}
        case NotUsed(why, _):
            return {"description": f"Not used: {why}."}
        case NotOffered(_, unless) if unless:
            return {"enum": list(unless), "description": "What is done anyway."}
        case _:
            return None


def _range_of(schema: Schema) -> Schema:
    """The bounds of the integer in `schema`."""
    whole: list[Schema] = [each for each in schema["anyOf"] if each.get("type") == "integer"]
    return {name: part for each in whole for name, part in each.items() if name != "type"}


def _or(schema: Schema, other: Schema) -> Schema:
    """What either accepts, with the title, default and description of the first."""
    about = {name: schema[name] for name in ("title", "default", "description") if name in schema}
    rest = {name: part for name, part in schema.items() if name not in about}
    choices: list[Schema] = rest["anyOf"] if set(rest) == {"anyOf"} else [rest]
    if other in choices or rest == {}:
        return schema
    return {**about, "anyOf": [*choices, other]}
