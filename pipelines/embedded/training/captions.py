"""Sentences for scenes, in many wordings, with a tag per word saying what the word is about.

"A left of B" and "B right of A" are one picture, so tags and targets speak of *slots*: the first
object is the left or upper one, whichever the sentence names first. A background that is not
mentioned is white.
"""

import random
from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor

from pipelines.embedded.training import world

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
    "on {a} {colour} background",
    "on {colour}",
    "against {a} {colour} background",
    "against {colour}",
    "with {a} {colour} background",
    "in front of {a} {colour} background",
    "on {a} {colour} backdrop",
    ", {colour} background",
)
PLACES: dict[str, tuple[str, ...]] = {
    "centre": ("", "", "", "in the middle", "in the center", "in the centre"),
    "small": ("",),
    "left": ("on the left", "on the left side", "at the left"),
    "right": ("on the right", "on the right side", "at the right"),
    "top": ("at the top", "on top"),
    "bottom": ("at the bottom",),
    "top left": ("in the top left corner", "in the upper left corner", "at the top left"),
    "top right": ("in the top right corner", "in the upper right corner", "at the top right"),
    "bottom left": (
        "in the bottom left corner",
        "in the lower left corner",
        "at the bottom left",
    ),
    "bottom right": (
        "in the bottom right corner",
        "in the lower right corner",
        "at the bottom right",
    ),
}
"""Wordings for where a single object is, by layout; the first is the standard one."""

SMALL_WORDS, LARGE_WORDS = ("small", "little", "tiny"), ("big", "large", "huge")
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

SIDES: dict[int, tuple[str, str]] = {
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
    "ring": ("ring", "donut"),
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
    if layout < world.ROW:
        parts = [(_placed_thing(layout, things[0], things[1], rng, plain), FIRST)]
    else:
        parts = _pair(layout, things, rng, plain)
    ground = _ground(world.COLOUR_NAMES[background], rng, plain)
    if plain:
        return _join([*parts, (ground, BACKGROUND)])
    draw = rng.random()
    if background == world.WHITE and draw < 0.35:
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
    texts += [*SMALL_WORDS, *LARGE_WORDS, *world.SHAPES, *world.COLOUR_NAMES]
    for wordings in (*PLACES.values(), *RELATIONS.values(), *SIDES.values(), *SYNONYMS.values()):
        texts += wordings
    text = " ".join(texts).lower()
    for mark in ("{a}", "{colour}", ","):
        text = text.replace(mark, " ")
    return sorted(set(text.split()))


def _thing(shape: int, colour: int, rng: random.Random, plain: bool, size: str = "") -> str:
    colour_name = say(world.COLOUR_NAMES[colour], rng, plain)
    shape_name = say(world.SHAPES[shape], rng, plain)
    name = f"{size} {colour_name} {shape_name}".strip()
    draw = 0.0 if plain else rng.random()
    if draw < 0.7:
        return f"{article(name)} {name}"
    if draw < 0.9:
        return name
    return f"{'one' if draw < 0.95 else 'the'} {name}"


def _placed_thing(layout: int, shape: int, colour: int, rng: random.Random, plain: bool) -> str:
    """A single object: its size where that is meant, and its place where it is not the centre."""
    name = world.LAYOUT_NAMES[layout]
    size = ""
    if name == "small":
        size = SMALL_WORDS[0] if plain else rng.choice(SMALL_WORDS)
    elif name == "centre" and not plain and rng.random() < 0.15:
        size = rng.choice(LARGE_WORDS)
    elif name != "centre" and not plain and rng.random() < 0.2:
        size = rng.choice(SMALL_WORDS)  # all others are small anyway
    place = PLACES[name][0] if plain else rng.choice(PLACES[name])
    return f"{_thing(shape, colour, rng, plain, size)} {place}".strip()


def _pair(layout: int, things: list[int], rng: random.Random, plain: bool) -> list[tuple[str, int]]:
    first = _thing(things[0], things[1], rng, plain)
    second = _thing(things[2], things[3], rng, plain)
    one_side, other_side = SIDES[layout]
    if not plain and rng.random() < 0.2:
        parts = [(f"{first} {one_side}", FIRST), ("and", OTHER), (f"{second} {other_side}", SECOND)]
        return parts if rng.random() < 0.7 else parts[::-1]
    in_order = rng.random() < 0.5
    wordings = RELATIONS[layout, in_order]
    relation = (wordings[0] if plain else rng.choice(wordings), RELATION)
    one, two = (first, FIRST), (second, SECOND)
    return [one, relation, two] if in_order else [two, relation, one]


def _ground(colour: str, rng: random.Random, plain: bool) -> str:
    name = say(colour, rng, plain)
    wording = GROUNDS[0] if plain else rng.choice(GROUNDS)
    return wording.format(a=article(name), colour=name)


def article(name: str) -> str:
    """``a`` or ``an``."""
    return "an" if name[0] in "aeiou" else "a"


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


def say(name: str, rng: random.Random, plain: bool = False) -> str:
    """A shape or colour in one of its wordings, mostly its own name."""
    names = SYNONYMS.get(name, (name,))
    return name if plain or rng.random() < 0.7 else rng.choice(names)
