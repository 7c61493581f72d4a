"""Phrases of the rules, and finding them all in a row of words in one pass."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Generic, NamedTuple, TypeVar

from pipelines.moderation.reading import Word, split_words

_ELEMENT = re.compile(
    r"<(?P<name>[^<>]*)>|\{(?P<range>[^{}]*)\}|(?P<text>[^<>{}\s]+)|(?P<bad>[<>{}])"
)
_RANGE = re.compile(r"([0-9]{1,4})\.\.([0-9]{1,4})")

Label = TypeVar("Label")


class NumberRange(NamedTuple):
    """A number written in digits, both ends included."""

    low: int
    high: int


Pattern = tuple[str | NumberRange, ...]
"""One phrase: words and number ranges, in order."""


class Span(NamedTuple, Generic[Label]):
    """Words `start` to `end` (excluded) of a prompt are a phrase added under `label`."""

    start: int
    end: int
    label: Label


def parse_phrase(text: str, terms: Mapping[str, Sequence[Pattern]]) -> list[Pattern]:
    """The patterns of one phrase as written in a rule file.

    "{1..17} year old" holds a number range, "<group> are vermin" a slot for every entry of the
    term list `group`, which must be in `terms`. Raises ValueError saying what is wrong.
    """
    slots: list[Sequence[Pattern]] = []
    for element in _ELEMENT.finditer(text):
        if element["bad"]:
            raise ValueError(f"{element['bad']!r} is not closed or not opened")
        if element["name"] is not None:
            slots.append(_slot(element["name"], terms))
        elif element["range"] is not None:
            slots.append([(_range(element["range"]),)])
        else:
            slots.append([split_words(element["text"])])
    if not any(pattern for slot in slots for pattern in slot):
        raise ValueError("there is no word in it")
    return [tuple(part for pattern in row for part in pattern) for row in product(*slots)]


def _slot(name: str, terms: Mapping[str, Sequence[Pattern]]) -> Sequence[Pattern]:
    if name not in terms:
        raise ValueError(f"<{name}> is no term list; usable here: {', '.join(terms) or 'none'}")
    return terms[name]


def _range(text: str) -> NumberRange:
    match = _RANGE.fullmatch(text)
    if match is None or int(match[1]) > int(match[2]):
        raise ValueError(f"{{{text}}} is no number range; write for example {{1..17}}")
    return NumberRange(int(match[1]), int(match[2]))


@dataclass(slots=True)
class _Node(Generic[Label]):
    words: dict[str, _Node[Label]] = field(default_factory=dict)
    ranges: dict[NumberRange, _Node[Label]] = field(default_factory=dict)
    labels: list[Label] = field(default_factory=list)


class PhraseIndex(Generic[Label]):
    """Labelled patterns in one tree, walked from every word of a prompt.

    The walk is as deep as the longest phrase, so finding takes time linear in the prompt.
    """

    def __init__(self, patterns: Iterable[tuple[Pattern, Label]]) -> None:
        self._root: _Node[Label] = _Node()
        for pattern, label in patterns:
            node = self._root
            for part in pattern:
                if isinstance(part, NumberRange):
                    node = node.ranges.setdefault(part, _Node())
                else:
                    node = node.words.setdefault(part, _Node())
            if label not in node.labels:
                node.labels.append(label)

    def find(self, words: Sequence[Word]) -> Iterator[Span[Label]]:
        """Every phrase in `words`, overlapping ones too, ordered by start."""
        for start, word in enumerate(words):
            if word.number is None and not word.readings:  # most words begin nothing
                continue
            nodes = [self._root]
            for end in range(start, len(words)):
                nodes = [after for node in nodes for after in _step(node, words[end])]
                if not nodes:
                    break
                for node in nodes:
                    for label in node.labels:
                        yield Span(start, end + 1, label)


def _step(node: _Node[Label], word: Word) -> Iterator[_Node[Label]]:
    for reading in word.readings:
        if reading in node.words:
            yield node.words[reading]
    if word.number is not None:
        for span, after in node.ranges.items():
            if span.low <= word.number <= span.high:
                yield after
