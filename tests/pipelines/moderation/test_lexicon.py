from __future__ import annotations

import pytest

from pipelines.moderation.lexicon import Lexicon

LEXICON = Lexicon(["kid", "kids", "nude", "teen", "sex", "ex", "bob", "kill"])


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("nude", {"nude"}),
        ("nuuude", {"nude"}),
        ("nnnuuudddeee", {"nude"}),
        ("teeeen", {"teen"}),
        ("k1ds", {"kids"}),
        ("k1lll", {"kill"}),
        ("nuuud3", {"nude"}),
        ("kidd", set()),  # doubled letters are English
        ("boob", set()),
        ("booob", {"bob"}),
        ("ten", set()),
        ("nudes", set()),
        ("essex", set()),
    ],
)
def test_lookup(token: str, words: set[str]) -> None:
    assert LEXICON.lookup(token) == words


@pytest.mark.parametrize(
    ("letters", "row"),
    [
        ("nude", ["nude"]),
        ("anudekid", ["a", "nude", "kid"]),
        ("kidsex", ["kid", "sex"]),  # rather than kids, ex
        ("nud3k1d", ["nude", "kid"]),
        ("nuuude", ["nude"]),
    ],
)
def test_spell_reads_rows_of_known_words(letters: str, row: list[str]) -> None:
    assert LEXICON.spell(letters) == tuple(frozenset({word}) for word in row)


@pytest.mark.parametrize("letters", ["essex", "xnude", "nudex", "aaaa", "exa", "12345", "k1d5", ""])
def test_spell_leaves_anything_else(letters: str) -> None:
    assert LEXICON.spell(letters) is None
