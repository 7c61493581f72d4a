"""From the fields of a form, all text, to what JSON would have: pure.

Clients write lists as `name[]` and objects as `name[key]`, or give a name several times; numbers
and booleans are text, objects now and then JSON in text. Fields that are texts stay texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, cast

from pipelines.errors import InvalidRequest
from serve.api.dialects.foreign_names import FOREIGN_FIELDS, Same
from serve.api.json_body import parse_json_object

_PATH = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_KEY = re.compile(r"\[([^\[\]]*)\]")
_MAX_DEPTH = 4
_MAX_ITEMS = 64
_LITERAL = re.compile(r"true|false|null|-?[0-9][0-9.eE+-]*|[\[{].*", re.DOTALL)
_SEVERAL = frozenset({"image", "images", "reference_image", "image_urls", "url"})
"""Names that may be given several times, which is a list."""

_TEXTS = frozenset(
    {
        "prompt",
        "negative_prompt",
        "model",
        "size",
        "aspect_ratio",
        "quality",
        "output_format",
        "background",
        "moderation",
        "response_format",
        "user",
        "safety_identifier",
        "style",
        "image",
        "mask",
        "mask_image",
        "reference_image",
        "input_fidelity",
        "webhook_url",
        "kind",
        "file_id",
    }
)
"""Our fields that are text, whatever it looks like."""


def fields_of(named: Iterable[tuple[str, object]]) -> dict[str, Any]:
    """Fields by name, from the form's (name, text or what stands for a file), in order.

    Raises InvalidRequest for a name that is malformed, or given twice without being a list.
    """
    fields: dict[str, Any] = {}
    for name, value in named:
        found = _PATH.fullmatch(name)
        keys: list[str] = [] if found is None else _KEY.findall(found[2])
        if found is None or len(keys) > _MAX_DEPTH:
            raise InvalidRequest(
                f"{name[:80]}: must be a name, `name[]` or `name[key]`", param=name[:80]
            )
        _put(fields, found[1], keys, _read(found[1], keys, value), name)
    return fields


def _put(into: dict[str, Any], key: str, keys: list[str], value: object, name: str) -> None:
    """Put `value` under `key`, and below it under `keys`, of which "" and digits are of lists."""
    if not keys:
        if key not in into:
            into[key] = value
        elif key in _SEVERAL:
            before = into[key]
            into[key] = [*(before if isinstance(before, list) else [before]), value]
        else:
            raise InvalidRequest(f"{name[:80]}: given twice", param=name[:80])
        return
    first, *rest = keys
    if first == "" or first.isdecimal():
        items = into.setdefault(key, [])
        if isinstance(items, list):
            _append(cast("list[Any]", items), first, rest, value, name)
            return
        if key in _SEVERAL and not rest:
            into[key] = [items, value]
            return
    else:
        inner = into.setdefault(key, {})
        if isinstance(inner, dict):
            _put(cast("dict[str, Any]", inner), first, rest, value, name)
            return
    raise InvalidRequest(f"{name[:80]}: contradicts {key[:80]}, which is given too", param=key[:80])


def _append(items: list[Any], index: str, keys: list[str], value: object, name: str) -> None:
    """Add to a list; of objects, a key that the last one has already begins the next."""
    if len(items) >= _MAX_ITEMS:
        raise InvalidRequest(f"{name[:80]}: has over {_MAX_ITEMS} items", param=name[:80])
    if not keys:
        items.append(value)
        return
    first, *rest = keys
    last: object = items[-1] if items else None
    if index:
        is_next = int(index[:4]) >= len(items)
    else:
        is_next = not isinstance(last, dict) or (first in last and not rest)
    if is_next:
        items.append({})
    target = items[min(int(index[:4]), len(items) - 1)] if index else items[-1]
    if not isinstance(target, dict):
        raise InvalidRequest(f"{name[:80]}: is an object and is none", param=name[:80])
    _put(cast("dict[str, Any]", target), first, rest, value, name)


def _read(field: str, keys: list[str], value: object) -> object:
    """Text as JSON would have it, unless the field is a text."""
    name = next((key for key in reversed(keys) if key and not key.isdecimal()), field)
    row = FOREIGN_FIELDS.get(name)
    ours = row.field if isinstance(row, Same) else name
    if not isinstance(value, str) or ours in _TEXTS:
        return value
    text = value.strip()
    if text == "":
        return None
    if _LITERAL.fullmatch(text) is None:
        return value
    try:
        return parse_json_object(b'{"value":' + text.encode("utf-8") + b"}")["value"]
    except InvalidRequest:
        return value
