"""From a prompt to the row of words that rules are matched on.

Handles what stands between letters: "n u d e", "n.u.d.e", "nu-de", "13yo", "half-nude", "p@rt".
Every step is linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from pipelines.moderation.confusables import fold
from pipelines.moderation.lexicon import Lexicon

_RATIO = r"(?:16:9|9:16|4:[35]|3:[24]|2:3|5:4)(?![^\W_])"
# Signs count as letters inside a word and at its ends; the bounds keep the search linear.
_TOKEN = re.compile(_RATIO + r"|[@$€]{0,2}[^\W_]+(?:[@$€!|]{1,3}[^\W_]+)*[@$€]{0,2}|[@$€]")
_PART = re.compile(r"[^\W_]+")
_JOINER = re.compile(r"[ \-‐‑'’]*")
# Not the end of "10,000": its zeros are no number of their own.
_NUMBER = re.compile(r"(?!000)\d{1,4}")
_NUMBER_WITH_UNIT = re.compile(r"((?!000)[0-9]{1,3})([^\W\d_]+)")
_MIN_SPELLED_OUT = 3


@dataclass(frozen=True, slots=True)
class Word:
    """One position of a prompt.

    `readings` are the rules' words that it can be, `number` its value if it is a number.
    `after_break` says that more than a space, hyphen or apostrophe parts it from the word before.
    """

    readings: frozenset[str] = frozenset()
    number: int | None = None
    after_break: bool = False


_UNKNOWN = Word()


@dataclass(frozen=True, slots=True)
class _Token:
    """A run of letters and digits, with what parts it from the one before."""

    text: str
    gap: str


def split_words(text: str) -> tuple[str, ...]:
    """The folded words of `text`, without any further reading: how rules themselves are read."""
    return tuple(_PART.findall(fold(text.lower())))


def read(text: str, lexicon: Lexicon) -> list[Word]:
    """The words of `text` as the rules see them, in order; unknown words have no readings."""
    words: list[Word] = []
    plain: list[_Token] = []
    for single, group in groupby(_tokens(fold(text)), key=lambda token: len(token.text) == 1):
        tokens = list(group)
        spelled = None
        if single and len(tokens) >= _MIN_SPELLED_OUT:
            spelled = _spelled_out(tokens, lexicon)
        if spelled is None:
            plain += tokens
        else:
            words += _plain_words(plain, lexicon)
            words += spelled
            plain = []
    return words + list(_plain_words(plain, lexicon))


def _tokens(folded: str) -> Iterator[_Token]:
    end = 0
    for match in _TOKEN.finditer(folded):
        yield _Token(match[0], folded[end : match.start()])
        end = match.end()


def _after(gap: str, words: Sequence[Word]) -> Sequence[Word]:
    """`words`, the first of which stands after `gap`."""
    if not words or _JOINER.fullmatch(gap):
        return words
    first = words[0]
    return [Word(first.readings, first.number, after_break=True), *words[1:]]


def _spelled_out(tokens: Sequence[_Token], lexicon: Lexicon) -> list[Word] | None:
    """Single letters read together: all of them, or else the parts between wider gaps."""
    if whole := _spell(tokens, lexicon):
        return list(whole)
    narrow = min(_width(token.gap) for token in tokens[1:])
    parts: list[list[_Token]] = [[tokens[0]]]
    for token in tokens[1:]:
        if _width(token.gap) > narrow:
            parts.append([])
        parts[-1].append(token)
    rows = [_spell(part, lexicon) if len(parts) > 1 else () for part in parts]
    if not any(rows):
        return None
    words: list[Word] = []
    for part, row in zip(parts, rows, strict=True):
        words += row or _plain_words(part, lexicon)
    return words


def _spell(tokens: Sequence[_Token], lexicon: Lexicon) -> Sequence[Word]:
    """The words that single-letter tokens spell; empty if they do not."""
    row = lexicon.spell("".join(token.text for token in tokens)) or ()
    return _after(tokens[0].gap, [Word(readings) for readings in row])


def _width(gap: str) -> tuple[bool, int]:
    return (" " in gap, len(gap))


def _plain_words(tokens: Sequence[_Token], lexicon: Lexicon) -> Iterator[Word]:
    """The words of tokens; those parted by punctuation alone are also tried as one word."""
    chunk: list[_Token] = []
    for token in tokens:
        if chunk and " " in token.gap:
            yield from _chunk_words(chunk, lexicon)
            chunk = []
        chunk.append(token)
    yield from _chunk_words(chunk, lexicon)


def _chunk_words(chunk: Sequence[_Token], lexicon: Lexicon) -> Iterator[Word]:
    if len(chunk) > 1 and not all(token.text in lexicon for token in chunk):
        joined = "".join(token.text for token in chunk)
        readings = lexicon.lookup(joined)
        row = [Word(readings)] if readings else _number_with_unit(joined, lexicon)
        if row:
            yield from _after(chunk[0].gap, row)
            return
    for token in chunk:
        yield from _after(token.gap, _token_words(token.text, lexicon))


def _token_words(token: str, lexicon: Lexicon) -> list[Word]:
    """Usually one word; more for signs between words ("a|b") and for numbers with a unit."""
    if readings := lexicon.lookup(token):
        return [Word(readings)]
    if token.isalpha():
        return [_UNKNOWN]
    if ":" in token:  # the shape of an image, "girl, 16:9", and no age
        return [Word()]
    words: list[Word] = []
    for part in _PART.findall(token):
        if row := _number_with_unit(part, lexicon):
            words += row
        elif _NUMBER.fullmatch(part):
            words.append(Word(number=int(part)))
        else:
            words.append(Word(lexicon.lookup(part)))
    return words


def _number_with_unit(text: str, lexicon: Lexicon) -> list[Word]:
    match = _NUMBER_WITH_UNIT.fullmatch(text)
    if match is None or match[2] not in lexicon:
        return []
    return [Word(number=int(match[1])), Word(frozenset({match[2]}))]
