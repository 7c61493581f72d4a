"""The page's texts: `texts.json`, each key with its text in every language."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from importlib.resources import files

DEFAULT_LANGUAGE = "en"

LANGUAGES: Mapping[str, str] = {"en": "en", "zh": "zh-Hans"}
"""The languages there are, and what HTML calls each."""


@functools.cache
def table() -> Mapping[str, Mapping[str, str]]:
    """By key, then by language."""
    return json.loads(files("serve.page").joinpath("texts.json").read_text("utf-8"))


@functools.cache
def texts_in(language: str) -> Mapping[str, str]:
    """By key, in one of `LANGUAGES`."""
    return {key: says[language] for key, says in table().items()}


def preferred_language(accept_language: str) -> str:
    """The first of `LANGUAGES` by a browser's `Accept-Language`; what cannot be read is passed
    over."""
    wanted: list[tuple[float, str]] = []
    for item in accept_language.split(","):
        tag, _, parameter = item.strip().partition(";")
        language = tag.partition("-")[0].lower()
        if language in LANGUAGES:
            wanted.append((_weight(parameter), language))
    best = max(wanted, default=(0.0, DEFAULT_LANGUAGE), key=lambda each: each[0])
    return best[1] if best[0] > 0 else DEFAULT_LANGUAGE


def _weight(parameter: str) -> float:
    name, _, value = parameter.strip().partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        weight = float(value)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0
