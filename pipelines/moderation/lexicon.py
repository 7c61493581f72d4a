"""The words that the rules speak of, and how written words are recognised as them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from itertools import groupby

from pipelines.moderation.confusables import STANDS_IN, letter_readings

_TRIPLE = re.compile(r"(.)\1\1")
_MIN_SPELLED_WORD = 3
_MAX_SPELLED_LEET = 0.4  # less than in a word: "k - 1 ... k - 3" is a formula


_MAX_REMEMBERED = 4
_NO_WORD: frozenset[str] = frozenset()


class Lexicon:
    """A fixed vocabulary; looks up words as written, and words spelled letter by letter."""

    def __init__(self, words: Iterable[str]) -> None:
        self._words = frozenset(words)
        self._pieces = _sizes_by_end(self._words | {"a"})
        self._by_letters: defaultdict[str, list[str]] = defaultdict(list)
        for word in sorted(self._words):
            self._by_letters[_letters(word)].append(word)

    def __contains__(self, word: str) -> bool:
        return word in self._words

    def lookup(self, token: str) -> frozenset[str]:
        """The words that a folded token can be: as written, in leet, or with letters drawn out."""
        if STANDS_IN.search(token) is None:  # the most, by far
            if token in self._words:
                return frozenset((token,))
            return frozenset(self._drawn_out(token)) if _TRIPLE.search(token) else _NO_WORD
        return frozenset(
            word for reading in _readings(token) for word in self._without_leet(reading)
        )

    def spell(self, letters: str) -> tuple[frozenset[str], ...] | None:
        """Letters that stood alone, read as a row of known words; None if some letters are left.

        The whole row must be words of the vocabulary, where "a" also counts: "anudechild" is three
        words, but "essex" is not read as anything although a word hides in it.
        """
        for reading in letter_readings(letters, most=_MAX_SPELLED_LEET):
            if words := self._without_leet(reading):
                return (frozenset(words),)
            if row := self._cover(reading):
                return tuple(frozenset({word}) for word in row)
        return None

    def _without_leet(self, reading: str) -> list[str]:
        return [reading] if reading in self._words else self._drawn_out(reading)

    def _drawn_out(self, reading: str) -> list[str]:
        if not _TRIPLE.search(reading):
            return []
        alike = self._by_letters.get(_letters(reading), ())
        return [word for word in alike if _is_drawn_out(word, reading)]

    def _cover(self, letters: str) -> list[str] | None:
        """The fewest words that make up `letters`, the more even row among equals. Linear time."""
        best: list[tuple[int, int, int]] = [(0, 0, 0)]  # words, sum of squared lengths, last length
        unreachable = (len(letters) + 1, 0, 0)
        for end in range(1, len(letters) + 1):
            found = unreachable
            for size, pieces in self._pieces.get(letters[end - 1], ()):
                if size > end:
                    break
                count, squares, _ = best[end - size]
                # First what costs least: few places can be reached at all.
                if count < found[0] and letters[end - size : end] in pieces:
                    found = min(found, (count + 1, squares + size * size, size))
            best.append(found)
        if best[-1][0] > len(letters):
            return None
        row: list[str] = []
        end = len(letters)
        while end:
            size = best[end][2]
            row.append(letters[end - size : end])
            end -= size
        return row[::-1] if any(len(word) >= _MIN_SPELLED_WORD for word in row) else None


@lru_cache(maxsize=4096)
def _remembered_readings(token: str) -> tuple[str, ...]:
    return tuple(letter_readings(token))


def _readings(token: str) -> Iterable[str]:
    """`letter_readings`; those of short tokens, which come again and again, are remembered."""
    if len(token) <= _MAX_REMEMBERED:
        return _remembered_readings(token)
    return letter_readings(token)


def _sizes_by_end(words: Iterable[str]) -> dict[str, tuple[tuple[int, frozenset[str]], ...]]:
    """By their last letter: the words of each length, the shortest first."""
    found: defaultdict[str, defaultdict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for word in words:
        if word:
            found[word[-1]][len(word)].add(word)
    return {
        last: tuple((size, frozenset(some)) for size, some in sorted(by_size.items()))
        for last, by_size in found.items()
    }


def _letters(word: str) -> str:
    """`word` with every run of one letter reduced to that letter."""
    return "".join(letter for letter, _ in groupby(word))


def _is_drawn_out(word: str, written: str) -> bool:
    """Whether `written` is `word` with some runs of letters stretched to three or more.

    English doubles letters but never trebles them, so a doubled letter ("Kidd") is no stretch.
    """
    runs = zip(
        (len(list(run)) for _, run in groupby(word)),
        (len(list(run)) for _, run in groupby(written)),
        strict=True,
    )
    return all(long == short or long >= max(3, short) for short, long in runs)
