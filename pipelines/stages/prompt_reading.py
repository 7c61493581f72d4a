"""What a tokenizer makes of a prompt, told in the client's own words.

Everything goes by the places in the text that the tokenizer names for its tokens, never by decoded
tokens: those have lost capitals, spaces, and whatever was unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_ENDS = " \t\r\n,.!?;:\"'"
_WORD_CHARACTERS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Pieces of a text: its end that did not fit, the words that became unknown tokens, and those
    that mean tokens of the tokenizer's own, such as its end mark."""

    dropped_text: str = ""
    unknown_words: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()


def read_texts(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> list[Reading]:
    """How `tokenizer` (a fast one, which puts one end mark behind its tokens) reads each text when
    it truncates at `max_tokens`, the end mark included."""
    # Not verbose, or it warns that such texts are too long to be encoded whole.
    whole = tokenizer(list(texts), return_offsets_mapping=True, verbose=False)
    special = {index: tokenizer.convert_ids_to_tokens(index) for index in tokenizer.all_special_ids}
    return [
        _read(text, ids, spans, special, max_tokens)
        for text, ids, spans in zip(texts, whole.input_ids, whole.offset_mapping, strict=True)
    ]


def _read(
    text: str,
    ids: Sequence[int],
    spans: Sequence[tuple[int, int]],
    special: dict[int, str],
    max_tokens: int,
) -> Reading:
    """The end mark keeps its place where a text is cut, so one token less of it is used."""
    is_cut = len(ids) > max_tokens
    used = max_tokens - 1 if is_cut else len(ids)
    dropped = text[spans[used][0] :].strip() if is_cut else ""
    unknown: dict[str, None] = {}
    marks: dict[str, None] = {}
    for index in range(used):
        start, end = spans[index]
        written = text[start:end].strip()
        if ids[index] not in special or not written:
            continue
        if written == special[ids[index]]:
            marks[written] = None
        elif not _is_space_marker(spans, index):
            unknown[_word_around(text, start, end)] = None
    return Reading(dropped_text=dropped, unknown_words=tuple(unknown), marks=tuple(marks))


def _is_space_marker(spans: Sequence[tuple[int, int]], index: int) -> bool:
    """Whether an unknown token is only the beginning of the word whose characters come next: its
    marker, which has no character of its own."""
    following = spans[index + 1 : index + 2]
    # The end mark has no place in the text: its span is empty.
    return any(start < spans[index][1] and start < end for start, end in following)


def _word_around(text: str, start: int, end: int) -> str:
    """The word that holds `text[start:end]`, or only that where words are not set apart."""
    first, last = start, end
    while first > 0 and not text[first - 1].isspace() and last - first <= _WORD_CHARACTERS:
        first -= 1
    while last < len(text) and not text[last].isspace() and last - first <= _WORD_CHARACTERS:
        last += 1
    if last - first > _WORD_CHARACTERS:
        return text[start:end].strip()
    return text[first:last].strip(_ENDS) or text[start:end].strip()
