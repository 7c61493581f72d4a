"""What a prompt may say besides the picture: a task prefix and options, taken out of the text.

    [GEN] a red fox in snow --ar 16:9   ->   text "a red fox in snow", aspect_ratio (16, 9)
    [EDIT] make it blue --no text       ->   text "make it blue", prefix "edit", negative "text"

Anything else stays as written: other bracketed text, ordinary dashes. Knows neither the content
policy (`pipelines.moderation`) nor a server's limits.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from pipelines.errors import InvalidRequest, UnsupportedFeature

MAX_RATIO = 3
"""Sides differ at most by this factor."""

_TASK = re.compile(r"\s*\[\s*(gen|edit|vqa|caption)\s*\]\s*", re.IGNORECASE | re.ASCII)
_MISSING_MODELS = {
    "vqa": "a vision-language model",
    "caption": "a vision-language model",
}

_MAX_ROUNDS = 4
"""What is behind an option that was taken out may be a prefix again, and so on."""

# Phones turn "--" into one of these, alone or doubled: en dash, em dash, bar, minus.
_TYPED_DASHES = "[–—―−]{1,2}"
_RATIO_OPTION = re.compile(
    rf"(?<!\S)(?:--(?:ar|aspect)(?![\w-])|{_TYPED_DASHES}(?:ar|aspect)(?=[\s=]*[0-9]))"
    r"[\s=]*(?P<value>(?!--)\S*)",
    re.IGNORECASE,
)
_RATIO = re.compile(r"(?P<width>[0-9]{1,4}):(?P<height>[0-9]{1,4})(?P<tail>[.,;!?)]*)")

# Without `\s+` or `\s*` before what may fail: a long run of spaces would be tried from each one.
_NO_OPTION = re.compile(
    r"(?<!\S)--no(?![\w-])[\s=]*(?P<value>(?!--)\S.*?|)"
    rf"(?=\s--[a-z]|\s{_TYPED_DASHES}(?:ar|aspect)[\s=]*[0-9]|\Z)",
    re.IGNORECASE | re.DOTALL,
)

_FIELD_BY_OPTION: dict[str, str | None] = {
    "c": None,
    "cfg": "guidance_scale",
    "chaos": None,
    "cref": None,
    "draft": None,
    "fast": None,
    "guidance": "guidance_scale",
    "h": "size",
    "hd": "quality",
    "height": "size",
    "iw": None,
    "n": "n",
    "negative": "negative_prompt",
    "niji": "model",
    "oref": None,
    "q": "quality",
    "quality": "quality",
    "raw": None,
    "relax": None,
    "repeat": "n",
    "s": None,
    "scale": "guidance_scale",
    "seed": "seed",
    "size": "size",
    "sref": None,
    "steps": "num_inference_steps",
    "stop": "num_inference_steps",
    "style": None,
    "stylize": None,
    "sw": None,
    "tile": None,
    "turbo": None,
    "v": "model",
    "version": "model",
    "w": "size",
    "weird": None,
    "width": "size",
}
"""Options that other services read from a prompt, with the request field that does the same."""

_NAMES = "|".join(sorted(_FIELD_BY_OPTION, key=len, reverse=True))
# A long dash also stands in ordinary text ("she said —no"), so it needs a number behind the name.
_FOREIGN_OPTION = re.compile(
    rf"(?<!\S)(?:--(?P<name>{_NAMES})(?![\w-])|{_TYPED_DASHES}(?P<typed>{_NAMES})(?=[\s=]+[0-9]))",
    re.IGNORECASE,
)

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedPrompt:
    """The prompt proper, its task prefix, (width, height) of its ratio, and what it says is not to
    be in the image; None where it does not."""

    text: str
    prefix: Literal["gen", "edit"] | None = None
    aspect_ratio: tuple[int, int] | None = None
    negative: str | None = None


def parse_prompt(
    text: str, *, param: str = "prompt", has_picture: bool = False, may_be_blank: bool = False
) -> ParsedPrompt:
    """The parts of `text`, a prompt as the client wrote it in the field `param`.

    A text without prefix and options comes back unchanged, and so does the text of what was parsed:
    a file that names it can be drawn again. `has_picture` is whether there is a picture to draw
    from, which decides on the prefixes that make sense. Raises InvalidRequest for characters
    that no prompt holds, a bad ratio, an option that is not read here, a prefix that does not fit,
    or, unless it `may_be_blank`, when nothing but syntax was written; UnsupportedFeature for a task
    that needs another kind of model.
    """
    _check_characters(text, param)
    prefix: Literal["gen", "edit"] | None = None
    ratio: tuple[int, int] | None = None
    negatives: list[str] = []
    for _ in range(_MAX_ROUNDS):
        before = text
        text, prefix = _without_task(text, prefix, param)
        text = _without_negatives(text, negatives, param)
        text, ratio = _without_ratio(text, ratio, param)
        if text == before:
            break
    else:
        raise InvalidRequest(
            f"{param}: write [GEN] or [EDIT], and --ar W:H, once each", param=param
        )
    _check_prefix(prefix, param, has_picture=has_picture)
    _refuse_foreign_options(text, param)
    if _is_blank(text) and not may_be_blank:
        raise InvalidRequest(
            f"{param}: describe the image in words; the text is blank", param=param
        )
    return ParsedPrompt(
        text=text,
        prefix=prefix,
        aspect_ratio=ratio,
        negative=", ".join(negatives) if negatives else None,
    )


def size_for_ratio(
    ratio: tuple[int, int],
    *,
    area: int,
    multiple: int,
    max_side: int,
    min_side: int | None = None,
    max_area: int | None = None,
) -> tuple[int, int]:
    """(height, width) in pixels, multiples of `multiple`, for `ratio` given as (width, height).

    Of the sizes whose long side is within a grid step of the ratio, with sides from `min_side`
    (None: `multiple`) to
    `max_side` and no more than `max_area` pixels (None: no bound), the one nearest to `area` pixels
    and to the ratio, a wrong ratio counting twice as much. The turned ratio has the turned size.
    Raises ValueError when no such size is within the limits.
    """
    wanted = max(ratio) / min(ratio)
    min_side = multiple if min_side is None else min_side
    # Aim at what the limits let the ratio reach, so that no area is won by giving up the ratio.
    area = max(area, int(min_side * min_side * wanted))
    area = min(area, max_area or area, int(max_side * max_side / wanted))
    sizes = [
        (short, long)
        for short in range(multiple, max_side + 1, multiple)
        for long in _around(short * wanted, multiple)
        if min_side <= short <= long <= max_side and (max_area is None or short * long <= max_area)
    ]
    if not sizes:
        raise ValueError(
            f"no size has sides from {min_side} to {max_side}, multiples of {multiple}, and at "
            f"most {max_area or 'any number of'} pixels"
        )
    short, long = min(sizes, key=lambda size: _misfit(*size, wanted=wanted, area=area))
    return (long, short) if ratio[0] < ratio[1] else (short, long)


def _around(value: float, multiple: int) -> tuple[int, int]:
    below = int(value // multiple) * multiple
    return max(below, multiple), below + multiple


def _misfit(short: int, long: int, *, wanted: float, area: int) -> float:
    return abs(math.log(short * long / area)) + 2 * abs(math.log(long / short / wanted))


def _check_characters(text: str, param: str) -> None:
    if found := _CONTROL.search(text):
        raise InvalidRequest(
            f"{param}: holds the control character U+{ord(found[0]):04X} at position "
            f"{found.start()}; remove it (tabs and line ends are allowed)",
            param=param,
        )
    if found := _SURROGATE.search(text):
        raise InvalidRequest(
            f"{param}: holds half of a surrogate pair at position {found.start()}, which is no "
            "character; send valid Unicode",
            param=param,
        )


def _without_task(
    text: str, prefix: Literal["gen", "edit"] | None, param: str
) -> tuple[str, Literal["gen", "edit"] | None]:
    """The text without its prefixes, and the one that they and `prefix` name."""
    end = 0
    while match := _TASK.match(text, end):
        task = match[1].lower()
        if task in _MISSING_MODELS:
            raise UnsupportedFeature(
                f"{param}: [{task.upper()}] needs {_MISSING_MODELS[task]}, and this server has "
                "none; it serves [GEN], images from text, and [EDIT], images from images",
                param=param,
            )
        found: Literal["gen", "edit"] = "edit" if task == "edit" else "gen"
        if prefix not in (None, found):
            raise InvalidRequest(
                f"{param}: begins with both [GEN] and [EDIT]; write one of them", param=param
            )
        prefix = found
        end = match.end()
    return text[end:], prefix


def _check_prefix(prefix: str | None, param: str, *, has_picture: bool) -> None:
    if prefix == "edit" and not has_picture:
        raise InvalidRequest(
            f"{param}: [EDIT] needs a picture to edit; send it as `image`, or leave [EDIT] out",
            param=param,
        )
    if prefix == "gen" and has_picture:
        raise InvalidRequest(
            f"{param}: [GEN] draws from words alone; write [EDIT], or leave the pictures out",
            param=param,
        )


def _without_negatives(text: str, negatives: list[str], param: str) -> str:
    """The text without each `--no` and what it says, which is added to `negatives`: all words up
    to the next option."""
    pieces: list[str] = []
    end = 0
    for option in _NO_OPTION.finditer(text):
        value = option["value"].strip(" \t\r\n,")
        if not value:
            raise InvalidRequest(
                f"{param}: --no says nothing; write what is not to be in the image behind it, for"
                " example --no text",
                param=param,
            )
        negatives.append(value)
        pieces.append(text[end : option.start()].rstrip())
        end = option.end()
    return "".join([*pieces, text[end:]]).strip() if pieces else text


def _without_ratio(
    text: str, ratio: tuple[int, int] | None, param: str
) -> tuple[str, tuple[int, int] | None]:
    """The text without its ratios, and the one that they and `ratio` name."""
    pieces: list[str] = []
    end = 0
    for option in _RATIO_OPTION.finditer(text):
        value = _RATIO.fullmatch(option["value"])
        found = _checked_ratio(value, option[0].strip(), param)
        if ratio and ratio[0] * found[1] != ratio[1] * found[0]:
            raise InvalidRequest(
                f"{param}: --ar is given twice, {ratio[0]}:{ratio[1]} and {found[0]}:{found[1]}; "
                "keep one",
                param=param,
            )
        ratio = ratio or found
        pieces += [text[end : option.start()].rstrip(), value["tail"] if value else ""]
        end = option.end()
    return ("".join([*pieces, text[end:]]).strip(), ratio) if pieces else (text, ratio)


def _checked_ratio(value: re.Match[str] | None, written: str, param: str) -> tuple[int, int]:
    width, height = (int(value["width"]), int(value["height"])) if value else (0, 0)
    if min(width, height) < 1 or max(width, height) > MAX_RATIO * min(width, height):
        raise InvalidRequest(
            f"{param}: {written[:40]!r} is no aspect ratio; write --ar W:H with positive whole "
            f"numbers from 1:{MAX_RATIO} to {MAX_RATIO}:1, for example --ar 16:9",
            param=param,
        )
    return width, height


def _refuse_foreign_options(text: str, param: str) -> None:
    option = _FOREIGN_OPTION.search(text)
    if option is None:
        return
    name = (option["name"] or option["typed"]).lower()
    field = _FIELD_BY_OPTION[name]
    instead = f"use the request field `{field}` instead" if field else "leave it out"
    raise InvalidRequest(
        f"{param}: the option --{name} is not read from the prompt; {instead}. "
        "The options in a prompt are --ar W:H and --no WORDS",
        param=param,
    )


def _is_blank(text: str) -> bool:
    """Whether nothing visible is in `text`: only spaces, separators and invisible characters."""
    return all(c.isspace() or unicodedata.category(c) in ("Cc", "Cf") for c in text)
