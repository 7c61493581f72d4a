"""Folding text to plain letters: what a reader sees, whatever characters it was written with.

Knows characters, not words. Each character is folded on its own (also decomposed on its own, since
normalising a long run of combining marks at once takes quadratic time):

1. a look-alike from the tables below becomes the Latin letter that it resembles;
2. anything else is NFKD-decomposed (fullwidth, mathematical, circled forms become plain letters),
   loses its marks and invisible characters, and is looked up again;
3. the result is case-folded.

The tables are a short selection made by eye, of what fonts draw alike: Cyrillic, Greek, Armenian
and Cherokee letters, Latin small capitals and letters with strokes or hooks, negative circled and
squared capitals, regional indicators.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import product

_SAME_IN_BOTH_CASES: Mapping[str, str] = {
    "a": "а",
    "b": "вь",
    "c": "с",
    "d": "ԁ",
    "e": "еєэ",
    "h": "нһ",
    "i": "і",
    "j": "ј",
    "k": "кқ",
    "l": "ӏłƚ",
    "m": "м",
    "n": "пи",
    "o": "оօøө",
    "p": "рþ",
    "q": "ԛ",
    "r": "гя",
    "s": "ѕ",
    "t": "тŧ",
    "u": "ս",
    "v": "ѵ",
    "w": "ԝшщѡ",
    "x": "х",
    "y": "уү",
}
"""Cyrillic, Armenian and stroked Latin letters that look alike small and large."""

_EXACT: Mapping[str, str] = {
    "a": "αΑΔΛɑᴀᎪ",
    "b": "βΒʙƀɓᏴ",
    "c": "ϲϹᴄƈᏟ",
    "d": "δᴅđĐðɗɖᎠ",
    "e": "εΕΣΞᴇɛəᎬ",
    "f": "ꜰƒ",
    "g": "ɡɢɠցᏀ",
    "h": "ΗʜħĦɦհᎻ",
    "i": "ιΙıɩɨᎥ",
    "j": "ϳᴊȷյᎫ",
    "k": "κΚᴋƙᏦ",
    "l": "ʟլᏞ",
    "m": "ΜᴍɱᎷ",
    "n": "ηΝɴπɲɳŋոռ",
    "o": "οΟΩσᴏ",
    "p": "ρΡᴘƥᏢ",
    "q": "գզ",
    "r": "ʀᎡᏒ",
    "s": "ςꜱʂᏚՏ",
    "t": "τΤᴛƭʈᎢ",
    "u": "μµυᴜ",
    "v": "νᴠʋᏙ",
    "w": "ωᴡᎳᏔ",
    "x": "χΧ",
    "y": "γΥʏƴᎩ",
    "z": "ζΖᴢƶʐȥᏃ",
}
"""Letters whose two forms resemble different Latin letters (Greek), or that have one form."""

_CAPITAL_ALPHABETS = (0x1F150, 0x1F170, 0x1F1E6)
"""First code points of the negative circled, negative squared and regional indicator A to Z."""

AMBIGUOUS_I = "ɪ"
"""Stands for a capital I after a small letter ("chIld"), which may be read as i or as l."""

LEET: Mapping[str, str] = {
    "0": "o",
    "1": "il",
    "3": "e",
    "4": "a",
    "5": "s",
    "6": "g",
    "7": "t",
    "8": "b",
    "9": "g",
    "@": "a",
    "$": "s",
    "€": "e",
    "!": "i",
    "|": "il",
    AMBIGUOUS_I: "il",
}
"""Digits and signs that stand for letters, each with the letters that it can stand for."""

STANDS_IN = re.compile(f"[{re.escape(''.join(LEET))}]")
"""Any of those: a token without one has one reading."""

_MAX_AMBIGUOUS = 4
_MAX_PARTS = 4
_CAPITAL_I_INSIDE = re.compile(r"(?<=[a-z])I")


def _look_alikes() -> dict[str, str]:
    table = {look: latin for latin, looks in _EXACT.items() for look in looks}
    for latin, looks in _SAME_IN_BOTH_CASES.items():
        table |= {form: latin for look in looks for form in (look, look.upper())}
    for first in _CAPITAL_ALPHABETS:
        table |= {chr(first + i): chr(ord("a") + i) for i in range(26)}
    return table


LOOK_ALIKES: Mapping[str, str] = _look_alikes()


@lru_cache(maxsize=8192)
def _fold_character(character: str) -> str:
    if character in LOOK_ALIKES:
        return LOOK_ALIKES[character]
    if character.isspace():
        return " "
    parts = unicodedata.normalize("NFKD", character)
    if len(parts) > _MAX_PARTS:
        return " "  # a whole phrase in one character, such as U+FDFA, would swell the text
    visible = (part for part in parts if unicodedata.category(part)[0] not in "MC")
    return "".join(LOOK_ALIKES.get(part, part) for part in visible).casefold()


def fold(text: str) -> str:
    """`text` as plain small letters: look-alikes mapped, marks and invisible characters gone.

    Whitespace of any kind becomes a space; digits and punctuation stay. Takes linear time.
    """
    return "".join(map(_fold_character, _CAPITAL_I_INSIDE.sub(AMBIGUOUS_I, text)))


def letter_readings(token: str, *, most: float = 0.5) -> Iterator[str]:
    """The ways to read one folded token as letters: as it is, then with leet characters replaced.

    Digits and signs are read as letters only where they are at most the share `most` of the token,
    so that numbers and codes ("1984", "t17") stay what they are. At most 17 readings: past four
    characters of two meanings, all of them are read alike.
    """
    yield token
    stand_ins = sum(character in LEET and character != AMBIGUOUS_I for character in token)
    if stand_ins > most * len(token):
        return
    ambiguous = sum(len(LEET.get(character, "")) > 1 for character in token)
    if ambiguous > _MAX_AMBIGUOUS:
        for choice in (0, -1):
            yield "".join(LEET.get(character, character)[choice] for character in token)
    elif stand_ins or ambiguous:
        yield from map("".join, product(*(LEET.get(character, character) for character in token)))
