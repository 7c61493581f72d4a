from __future__ import annotations

import pytest

from pipelines.moderation.confusables import LOOK_ALIKES, fold, letter_readings


@pytest.mark.parametrize(
    ("written", "folded"),
    [
        ("Plain TEXT, with 2 signs!", "plain text, with 2 signs!"),
        ("café Ångström", "cafe angstrom"),
        ("ｆｕｌｌｗｉｄｔｈ", "fullwidth"),
        ("𝖒𝖆𝖙𝖍 𝓼𝓬𝓻𝓲𝓹𝓽", "math script"),
        ("ⓒⓘⓡⓒⓛⓔ", "circle"),
        ("🅽🅶 🄽🅐 🇳", "ng na n"),
        ("ѕсоре", "scope"),  # Cyrillic
        ("ЯЕР", "rep"),
        ("ΜΑΝΥ", "many"),  # Greek capitals: M, A, N, Y
        ("νου", "vou"),  # Greek small letters
        ("ᎪᏴᏟ", "abc"),  # Cherokee
        ("ꜱᴍᴀʟʟ", "small"),
        ("zero\u200bwidth\u200d soft\u00adhyphen", "zerowidth softhyphen"),
        ("be\x07ll\x00", "bell"),
        ("tab\tnew\nline\u00a0no-break", "tab new line no-break"),
        ("Straße", "strasse"),
        ("z̸̢̛͚a̷̢l̶̡͜g̴̨o̵͘͢", "zalgo"),
    ],
)
def test_fold(written: str, folded: str) -> None:
    assert fold(written) == folded


def test_a_capital_i_inside_a_word_may_be_an_l() -> None:
    assert {"child", "chiid"} <= set(letter_readings(fold("chiId")))


def test_every_look_alike_becomes_one_small_latin_letter() -> None:
    assert all(len(c) == 1 and not c.isascii() for c in LOOK_ALIKES)
    assert set(LOOK_ALIKES.values()) <= set("abcdefghijklmnopqrstuvwxyz")


@pytest.mark.parametrize(
    ("token", "reading"),
    [("p41nt", "paint"), ("he11o", "hello"), ("$now", "snow"), ("c@t", "cat"), ("b00k", "book")],
)
def test_leet_is_read(token: str, reading: str) -> None:
    assert reading in set(letter_readings(token))


@pytest.mark.parametrize("token", ["1984", "0", "t17", "55a", "plain"])
def test_numbers_and_codes_are_read_as_they_are(token: str) -> None:
    assert list(letter_readings(token)) == [token]


def test_readings_stay_few() -> None:
    assert len(list(letter_readings("l1" * 1000))) <= 17
