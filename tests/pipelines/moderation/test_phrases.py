from __future__ import annotations

import pytest

from pipelines.moderation.lexicon import Lexicon
from pipelines.moderation.phrases import NumberRange, PhraseIndex, Span, parse_phrase
from pipelines.moderation.reading import read

TERMS = {"pet": [("cat",), ("guinea", "pig")]}


def test_a_phrase_is_its_words() -> None:
    assert parse_phrase("Half-timbered  house", {}) == [("half", "timbered", "house")]


def test_slots_stand_for_every_entry() -> None:
    assert parse_phrase("my <pet> eats", TERMS) == [
        ("my", "cat", "eats"),
        ("my", "guinea", "pig", "eats"),
    ]


def test_ranges_stand_for_numbers() -> None:
    assert parse_phrase("aged {1..17}", {}) == [("aged", NumberRange(1, 17))]


@pytest.mark.parametrize(
    ("phrase", "problem"),
    [
        ("", "no word"),
        ("?!", "no word"),
        ("a <dog>", "<dog> is no term list; usable here: pet"),
        ("{17..1} years", "no number range"),
        ("{many} years", "no number range"),
        ("a <pet", "not closed"),
        ("pet> a", "not closed"),
    ],
)
def test_bad_phrases_say_why(phrase: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_phrase(phrase, TERMS)


def test_find_gives_every_span() -> None:
    index = PhraseIndex(
        [
            (("guinea", "pig"), "pet"),
            (("pig",), "farm"),
            (("aged", NumberRange(1, 17)), "young"),
            (("aged", NumberRange(10, 99)), "older"),
        ]
    )
    words = read("a guinea pig aged 12", Lexicon(["guinea", "pig", "aged"]))
    assert list(index.find(words)) == [
        Span(1, 3, "pet"),
        Span(2, 3, "farm"),
        Span(3, 5, "young"),
        Span(3, 5, "older"),
    ]
