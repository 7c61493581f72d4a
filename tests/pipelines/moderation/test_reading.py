from __future__ import annotations

import pytest

from pipelines.moderation.lexicon import Lexicon
from pipelines.moderation.reading import Word, read, split_words

LEXICON = Lexicon(["red", "fox", "year", "old", "yo", "pre", "teen", "preteen", "childs", "a"])


def shown(text: str) -> list[str]:
    """Readings joined by "/", numbers as digits, "?" for a word that no rule speaks of."""
    return [
        "/".join(sorted(word.readings)) or (str(word.number) if word.number is not None else "?")
        for word in read(text, LEXICON)
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A red fox.", ["a", "red", "fox"]),
        ("the red, fox", ["?", "red", "fox"]),
        ("r e d fox", ["red", "fox"]),
        ("r.e.d f_o_x", ["red", "fox"]),
        ("r e d f o x", ["red", "fox"]),
        ("r e d  z z z", ["red", "?", "?", "?"]),  # the wider gap parts them
        ("r-e-d z z", ["red", "?", "?"]),
        ("r e d z z", ["?", "?", "?", "?", "?"]),
        ("re.d f*ox", ["red", "fox"]),
        ("red-fox", ["red", "fox"]),
        ("pre-teen", ["pre", "teen"]),  # both are words of the rules
        ("red|fox", ["red", "fox"]),
        ("red@home", ["red", "?"]),
        ("(red)", ["red"]),
        ("fox$", ["fox"]),
        ("12 year old", ["12", "year", "old"]),
        ("12-year-old", ["12", "year", "old"]),
        ("12yo", ["12", "yo"]),
        ("15y.o.", ["15", "yo"]),
        ("child's", ["childs"]),
        ("123456789", ["?"]),
        ("old 16:9", ["old", "?"]),
        ("old 16:95 13:2", ["old", "16", "95", "13", "2"]),
        ("0 year", ["0", "year"]),
        ("١٢ year", ["12", "year"]),
        ("10,000 year", ["10", "?", "year"]),  # not 10 and 0
        ("", []),
        ("...", []),
    ],
)
def test_read(text: str, words: list[str]) -> None:
    assert shown(text) == words


def test_breaks_are_kept() -> None:
    assert [word.after_break for word in read("red-fox red's, fox r;e;d", LEXICON)] == [
        False,
        False,
        False,
        False,
        True,
        False,
    ]


def test_unknown_words_keep_their_place() -> None:
    assert read("big red", LEXICON) == [Word(), Word(frozenset({"red"}))]


def test_split_words_reads_rules_plainly() -> None:
    assert split_words("Pre-Teen Café") == ("pre", "teen", "cafe")
