"""Turns pydantic's account of bad settings into lines that say what to write instead."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Sequence
from typing import Any, Union

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

_MAX_LINES = 20
_MAX_VALUE = 200
"""Characters of a wrong value, or of an unknown name, that a message repeats."""


def readable(root: type[BaseModel], error: ValidationError) -> str:
    """One line per mistake: the dotted field, what is wrong, what would work."""
    details = error.errors(include_url=False)
    lines = [_line(root, each) for each in details[:_MAX_LINES]]
    if len(details) > _MAX_LINES:
        lines.append(f"and {len(details) - _MAX_LINES} more mistakes")
    return "\n".join(lines)


def unknown_key(name: str, known: Sequence[str]) -> str:
    """Say that `name` is not among `known`, and which one was probably meant."""
    name = _short(name)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return f"{name}: unknown setting; {hint}"


def _short(text: str) -> str:
    return text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]}…"


def _line(root: type[BaseModel], details: ErrorDetails) -> str:
    path = [str(part) for part in details["loc"]]
    if details["type"] == "extra_forbidden":
        level = _model_at(root, path[:-1])
        return unknown_key(".".join(path), [".".join([*path[:-1], k]) for k in level.model_fields])
    message = details["msg"].removeprefix("Value error, ").removeprefix("Input ")
    text = f"{'.'.join(path)}: {message}, got {_short(repr(details['input']))}"
    default = _default_at(root, path)
    return text if default is None else f"{text}; {default!r} would work"


def _model_at(root: type[BaseModel], path: Sequence[str]) -> type[BaseModel]:
    level = root
    for part in path:
        if part in level.model_fields:
            level = model_in(level.model_fields[part].annotation) or level
    return level


def _default_at(root: type[BaseModel], path: Sequence[str]) -> Any:
    fields = _model_at(root, path[:-1]).model_fields
    field = fields.get(path[-1]) if path else None
    if field is None or field.is_required():
        return None
    default = field.get_default(call_default_factory=True, validated_data={})
    return None if isinstance(default, BaseModel) else default


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The settings class inside `Model`, `Model | None` or `Annotated[Model, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (Union, types.UnionType, typing.Annotated):
        for option in typing.get_args(annotation):
            if found := model_in(option):
                return found
    return None
