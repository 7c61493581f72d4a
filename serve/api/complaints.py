"""What pydantic finds wrong with a value, in words that say what would be right."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def complaint(error: Mapping[str, Any]) -> str:
    """Of one of `ValidationError.errors()`, to stand after the field's name."""
    if error["type"] == "missing":
        return "required, and it is missing"
    return f"{_wanted(error)}, got {shown(error['input'])}"


def shown(value: object) -> str:
    """`value` as the client wrote it, short."""
    if isinstance(value, list | dict):
        return "an array" if isinstance(value, list) else "an object"
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
        case "list_type":
            return "must be an array"
        case "string_pattern_mismatch":
            return "must be 'W:H' such as '16:9'"
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
        case "value_error":
            return str(context.get("error"))
        case _:
            return str(error["msg"])
