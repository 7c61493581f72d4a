"""What pydantic finds wrong with a value, in words that say what would be right."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_PATTERNS: Mapping[str, str] = {
    "^[0-9]{1,4}:[0-9]{1,4}$": "must be 'W:H' such as '16:9'",
    "^(auto|opaque|transparent|#[0-9a-fA-F]{6})$": "must be 'auto', 'opaque' or a colour such as"
    " '#ffffff'",
    "^[a-z0-9_-]{0,32}$": "must be a short name of lower-case letters, digits, - and _",
}
"""What the patterns of our fields ask for, in words."""


def complaint(error: Mapping[str, Any]) -> str:
    """Of one of `ValidationError.errors()`, to stand after the field's name."""
    if error["type"] == "missing":
        return "required, and it is missing"
    return f"{_wanted(error)}, got {shown(error['input'])}"


def shown(value: object) -> str:
    """`value` as the client wrote it, short."""
    if isinstance(value, list | tuple | dict):
        return "an object" if isinstance(value, dict) else "an array"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _wanted(error: Mapping[str, Any]) -> str:
    context: Mapping[str, Any] = error.get("ctx", {})
    match error["type"]:
        case "int_type" | "int_parsing" | "int_from_float" | "int_parsing_size":
            return "must be an integer"
        case "float_type" | "float_parsing" | "finite_number":
            return "must be a finite number"
        case "string_type":
            return "must be a string"
        case "bool_type" | "bool_parsing":
            return "must be true or false"
        case "list_type" | "tuple_type":
            return "must be an array"
        case "string_pattern_mismatch":
            pattern = str(context.get("pattern"))
            return _PATTERNS.get(pattern, f"must match {pattern}")
        case "literal_error" | "enum":
            return f"must be one of {context.get('expected')}"
        case "greater_than_equal":
            return f"must be at least {context['ge']}"
        case "less_than_equal":
            return f"must be at most {context['le']}"
        case "too_short":
            return f"must have at least {context['min_length']} items"
        case "too_long":
            return f"must have at most {context['max_length']} items"
        case "model_type" | "dict_type":
            return "must be an object"
        case "extra_forbidden":
            return "is unknown here"
        case "value_error":
            return str(context.get("error"))
        case _:
            return str(error["msg"])
