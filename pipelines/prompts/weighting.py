r"""How much words of a prompt count: parentheses, as A1111's and ComfyUI's users write them.

    a (red:1.3) fox          "red" counts 1.3 times
    a (red) fox              1.1 times; ((red)) 1.21 times, as weights inside each other multiply
    a fox \(vulpes\)         plain parentheses; \\ is a backslash before one, or before another

They are read only where `prompt_weighting` says so: FLUX.1's prompts are prose, with parentheses of
their own. `[words]`, which lowers a weight in A1111, is text here, because brackets hold prefixes
(`[GEN]`). Unlike there, a parenthesis without its other half is refused, and so are weights above
2. What a weight does is the text encoder's business. Pure functions.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pipelines.errors import InvalidRequest

PLAIN_WEIGHT = 1.1
"""Of parentheses that name none."""

MAX_WEIGHT = 2.0
_MAX_DEPTH = 16
_SLACK = 1e-9
"""Weights inside each other are multiplied, so 1.25 times 1.6 may be a little above 2."""

_ESCAPED = "\\()"
_NUMBER_AND_END = re.compile(
    r":[ \t]{0,8}([+-]?(?:[0-9]{1,8}(?:\.[0-9]{0,8})?|\.[0-9]{1,8}))[ \t]{0,8}\)"
)


class WeightedSpan(NamedTuple):
    """Characters of a text, from `start` up to `end`, that have a weight other than 1."""

    start: int
    end: int
    weight: float


class WeightedText(NamedTuple):
    """A prompt as the encoders read it, and its words that count more or less, in order."""

    text: str
    spans: tuple[WeightedSpan, ...] = ()

    def weight_at(self, place: int) -> float:
        """Of the character there."""
        found = (span.weight for span in self.spans if span.start <= place < span.end)
        return next(found, 1.0)


def parse_weights(prompt: str, *, param: str = "prompt") -> WeightedText:
    r"""The text of `prompt` without its syntax, and its weights.

    Raises InvalidRequest, naming the field `param`, for a parenthesis without its other half, more
    than 16 inside each other, and weights outside of 0 to 2, multiplied out.
    """
    text: list[str] = []
    weights: list[float] = []
    opened: list[_Opened] = []
    at = 0
    while at < len(prompt):
        character = prompt[at]
        number = _NUMBER_AND_END.match(prompt, at) if opened else None
        if character == "\\" and prompt[at + 1 : at + 2] in tuple(_ESCAPED):
            text.append(prompt[at + 1])
            weights.append(1.0)
            at += 2
        elif character == "(":
            opened.append(_Opened(len(text), at))
            _check_depth(opened, param)
            at += 1
        elif number is not None or character == ")":
            if not opened:
                raise _unmatched(at, "opened", param)
            weight = PLAIN_WEIGHT if number is None else float(number[1])
            end = at + 1 if number is None else number.end()
            first = opened.pop()
            _check_weight(weight, prompt[first.written : end], param)
            for place in range(first.place, len(weights)):
                weights[place] *= weight
            if weights[first.place :] and max(weights[first.place :]) > MAX_WEIGHT + _SLACK:
                _check_weight(max(weights[first.place :]), prompt[first.written : end], param)
            at = end
        else:
            text.append(character)
            weights.append(1.0)
            at += 1
    if opened:
        raise _unmatched(opened[-1].written, "closed", param)
    return WeightedText("".join(text), _spans(weights))


def has_weights(prompt: str) -> bool:
    """Whether reading weights could make something else of `prompt` than it says."""
    return any(character in prompt for character in "()\\")


class _Opened(NamedTuple):
    """A parenthesis: its place in the text, and where it was written."""

    place: int
    written: int


def _spans(weights: list[float]) -> tuple[WeightedSpan, ...]:
    """Runs of one weight, but for 1."""
    spans: list[WeightedSpan] = []
    for place, weight in enumerate(weights):
        if spans and spans[-1].end == place and spans[-1].weight == weight:
            spans[-1] = spans[-1]._replace(end=place + 1)
        elif weight != 1.0:
            spans.append(WeightedSpan(place, place + 1, weight))
    return tuple(spans)


def _check_depth(opened: list[_Opened], param: str) -> None:
    if len(opened) > _MAX_DEPTH:
        raise InvalidRequest(
            f"{param}: more than {_MAX_DEPTH} parentheses inside each other, at position"
            rf" {opened[-1].written}; write \( and \) for those that are text",
            param=param,
        )


def _check_weight(weight: float, written: str, param: str) -> None:
    if not 0.0 <= weight <= MAX_WEIGHT + _SLACK:
        shown = written if len(written) <= 60 else written[:60] + "…"
        raise InvalidRequest(
            f"{param}: {shown!r} has the weight {weight:g}; weights are 0 to {MAX_WEIGHT:g}, those"
            r" inside each other multiplied. Write \( and \) for parentheses that are text",
            param=param,
        )


def _unmatched(at: int, missing: str, param: str) -> InvalidRequest:
    return InvalidRequest(
        rf"{param}: the parenthesis at position {at} is never {missing}; write \( or \) for one"
        " that is text, or leave prompt_weighting out",
        param=param,
    )
