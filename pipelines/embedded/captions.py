"""Sentences for scenes, in many wordings, with a tag per word saying what the word is about.

"A left of B" and "B right of A" are one picture, so tags and targets speak of *slots*: the first
object is the left or upper one, whichever the sentence names first. A background that is not
mentioned is white.
"""

import random
from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor

from pipelines.embedded import world

OTHER, FIRST, SECOND, BACKGROUND, RELATION = range(5)
"""What a word is about."""

MAX_WORDS = 15
"""The T5 length is this and the end token; longer wordings are not used for two objects."""

OPENINGS = (
    "draw",
    "please draw",
    "show me",
    "paint",
    "create",
    "make",
    "generate",
    "I want",
    "a picture of",
    "an image of",
    "a drawing of",
    "picture of",
    "please make a simple picture of",
    "there is",
)
ENDINGS = ("please", "thanks", "thank you", "simple", "flat", "nice", "clean")
GROUNDS = (
    "on a {} background",
    "on {}",
    "against a {} background",
    "against {}",
    "over a {} background",
    "with a {} background",
    "in front of a {} background",
    "on a {} backdrop",
    ", {} background",
)
RELATIONS: dict[tuple[int, bool], tuple[str, ...]] = {
    (world.ROW, True): (
        "left of",
        "to the left of",
        "on the left of",
        "next to",
        "beside",
    ),
    (world.ROW, False): ("right of", "to the right of", "on the right of"),
    (world.COLUMN, True): ("above", "over", "on top of", "higher than"),
    (world.COLUMN, False): ("below", "under", "beneath", "underneath", "lower than"),
}
"""Wordings by layout and whether the sentence names the first slot's object first."""

PLACES: dict[int, tuple[str, str]] = {
    world.ROW: ("on the left", "on the right"),
    world.COLUMN: ("at the top", "at the bottom"),
}
SYNONYMS = {
    "gray": ("gray", "grey"),
    "navy": ("navy", "navy blue", "dark blue"),
    "mint": ("mint", "mint green"),
    "circle": ("circle", "disc", "dot"),
    "diamond": ("diamond", "rhombus"),
    "cross": ("cross", "plus"),
    "purple": ("purple", "violet"),
    "cyan": ("cyan", "turquoise"),
}
EXTRA_WORDS = (
    "a an the one and is with shape shapes colour color coloured colored image background photo "
    "in to of at it that small big large little bright solid plain side by single two object "
    "objects me my you can could would like some very beautiful cute"
)


class Caption(NamedTuple):
    """A sentence, and one tag for each of its words (as split at white space)."""

    text: str
    tags: tuple[int, ...]


def caption(code: Tensor, rng: random.Random, *, plain: bool = False) -> Caption:
    """Put one scene (6,) into words. ``plain`` gives the standard wording, without trimmings."""
    layout, background, *things = (int(v) for v in code)
    first = _thing(things[0], things[1], rng, plain)
    ground_name = world.BACKGROUND_NAMES[background]
    ground = (GROUNDS[0] if plain else rng.choice(GROUNDS)).format(_say(ground_name, rng, plain))
    parts: list[tuple[str, int]] = [(first, FIRST)]
    if layout != world.CENTRE:
        parts = _pair(layout, first, _thing(things[2], things[3], rng, plain), rng, plain)
    if plain:
        return _join([*parts, (ground, BACKGROUND)])
    draw = rng.random()
    if background == 0 and draw < 0.35:
        pass  # white goes without saying
    elif draw < 0.9 or ground.startswith(","):
        parts.append((ground, BACKGROUND))
    else:
        parts.insert(0, (ground + ",", BACKGROUND))
    return _trimmed(parts, rng)


def captions(codes: Tensor, rng: random.Random, *, plain: bool = False) -> list[Caption]:
    """One caption for each of (n, 6) scenes."""
    return [caption(code, rng, plain=plain) for code in codes]


def vocabulary() -> list[str]:
    """Every word the sentences are made of, in lower case, sorted, without punctuation."""
    texts: list[str] = [*OPENINGS, *ENDINGS, *GROUNDS, EXTRA_WORDS]
    texts += [wording for wordings in RELATIONS.values() for wording in wordings]
    texts += [place for places in PLACES.values() for place in places]
    texts += [*world.SHAPES, *world.COLOUR_NAMES, *world.BACKGROUND_NAMES]
    texts += [word for words in SYNONYMS.values() for word in words]
    words = " ".join(texts).lower().replace("{}", " ").replace(",", " ").split()
    return sorted(set(words))


def _thing(shape: int, colour: int, rng: random.Random, plain: bool) -> str:
    colour_name = _say(world.COLOUR_NAMES[colour], rng, plain)
    shape_name = _say(world.SHAPES[shape], rng, plain)
    article = "an" if colour_name[0] in "aeiou" else "a"
    draw = 0.0 if plain else rng.random()
    if draw < 0.7:
        return f"{article} {colour_name} {shape_name}"
    if draw < 0.9:
        return f"{colour_name} {shape_name}"
    return f"{'one' if draw < 0.95 else 'the'} {colour_name} {shape_name}"


def _pair(
    layout: int, first: str, second: str, rng: random.Random, plain: bool
) -> list[tuple[str, int]]:
    left, right = PLACES[layout]
    if not plain and rng.random() < 0.2:
        parts = [(f"{first} {left}", FIRST), ("and", OTHER), (f"{second} {right}", SECOND)]
        return parts if rng.random() < 0.7 else parts[::-1]
    in_order = rng.random() < 0.5
    wordings = RELATIONS[layout, in_order]
    relation = (wordings[0] if plain else rng.choice(wordings), RELATION)
    one, two = (first, FIRST), (second, SECOND)
    return [one, relation, two] if in_order else [two, relation, one]


def _trimmed(parts: list[tuple[str, int]], rng: random.Random) -> Caption:
    """Add courtesies, unknown words, a capital or a full stop, as long as there is room."""
    bare = _join(parts)
    if rng.random() < 0.3:
        parts = [(rng.choice(OPENINGS), OTHER), *parts]
    if rng.random() < 0.08:
        ending = rng.choice(ENDINGS)
        parts = [*parts, (f", {ending}" if rng.random() < 0.5 else ending, OTHER)]
    if rng.random() < 0.08:
        unknown = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 7)))
        parts = [(unknown, OTHER), *parts] if rng.random() < 0.5 else [*parts, (unknown, OTHER)]
    joined = _join(parts)
    if len(joined.tags) > MAX_WORDS:
        joined = bare
    text = joined.text
    if rng.random() < 0.3:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.2:
        text += "."
    return Caption(text, joined.tags)


def _join(parts: Iterable[tuple[str, int]]) -> Caption:
    """Join phrases with spaces, commas closing up to the word before."""
    words: list[str] = []
    tags: list[int] = []
    for phrase, tag in parts:
        for word in phrase.split():
            if word == ",":
                words[-1] += ","
            else:
                words.append(word)
                tags.append(tag)
    return Caption(" ".join(words), tuple(tags))


def _say(name: str, rng: random.Random, plain: bool) -> str:
    names = SYNONYMS.get(name, (name,))
    return name if plain or rng.random() < 0.7 else rng.choice(names)
