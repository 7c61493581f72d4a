"""Sentences for edits, in many wordings, with a tag per word saying what the word is about.

In a template ``{target}`` is the object that is meant, ``{value}`` what it becomes (or what is
added, with its place), ``{a}`` the article of the value. Every other word belongs to the operation.
"""

import random
from itertools import chain

from pipelines.embedded.training import captions, world
from pipelines.embedded.training.captions import PLACES, Caption
from pipelines.embedded.training.editing.edits import CENTRE, PAIRS, Edit, Operation
from pipelines.embedded.training.outlines import SHAPES
from pipelines.embedded.training.world import NO_COLOUR, NO_SHAPE

OPERATION, TARGET, VALUE = 10, 11, 12
"""What a word is about; ``captions.OTHER`` for courtesies, -1 for the end token and padding."""

WORDINGS: dict[Operation, tuple[str, ...]] = {
    Operation.RECOLOUR: (
        "make {target} {value}",
        "turn {target} {value}",
        "paint {target} {value}",
        "change {target} to {value}",
        "color {target} {value}",
        "recolor {target} {value}",
        "recolour {target} to {value}",
        "change the color of {target} to {value}",
        "{target} should be {value}",
        "give {target} {a} {value} color",
        "make {target} {value} instead",
        "set {target} to {value}",
    ),
    Operation.REPLACE: (
        "replace {target} with {a} {value}",
        "replace {target} by {a} {value}",
        "change {target} into {a} {value}",
        "turn {target} into {a} {value}",
        "change {target} to {a} {value}",
        "make {target} {a} {value}",
        "swap {target} for {a} {value}",
        "change the shape of {target} to {a} {value}",
        "{target} should be {a} {value}",
        "transform {target} into {a} {value}",
    ),
    Operation.MOVE: (
        "move {target} {value}",
        "put {target} {value}",
        "place {target} {value}",
        "shift {target} {value}",
        "set {target} {value}",
        "{target} should be {value}",
    ),
    Operation.BACKGROUND: (
        "make the background {value}",
        "change the background to {value}",
        "turn the background {value}",
        "paint the background {value}",
        "use {a} {value} background",
        "put it on {a} {value} background",
        "put everything on {value}",
        "change the background color to {value}",
        "recolor the background {value}",
        "background {value}",
        "{value} background instead",
        "set the background to {value}",
    ),
    Operation.RESIZE: (
        "make {target} {value}",
        "resize {target} to be {value}",
        "{target} should be {value}",
        "make {target} a lot {value}",
        "scale {target} to {value}",
    ),
    Operation.ADD: (
        "add {value}",
        "draw {value}",
        "add {value} to the picture",
        "insert {value}",
        "also draw {value}",
        "paint {value} too",
        "there should be {value}",
        "place {value}",
    ),
    Operation.REMOVE: (
        "remove {target}",
        "delete {target}",
        "erase {target}",
        "take {target} away",
        "take away {target}",
        "remove {target} from the picture",
        "get rid of {target}",
        "drop {target}",
    ),
    Operation.NOTHING: (
        "",
        "",
        "",
        "",
        "change nothing",
        "keep everything",
        "keep it as it is",
        "do nothing",
        "leave it",
    ),
}
BIGGER = ("bigger", "larger", "big", "large", "huge")
SMALLER = ("smaller", "small", "little", "tiny")
PRONOUNS = ("it", "it", "the shape", "the object", "the thing")
NOUNS = ("one", "shape", "object", "thing")

DESTINATIONS: dict[str, tuple[str, ...]] = {
    "small": ("in the middle", "to the center", "to the middle", "in the centre"),
    "left": ("to the left", "to the left side", *PLACES["left"]),
    "right": ("to the right", "to the right side", *PLACES["right"]),
    "top": ("to the top", "up to the top", *PLACES["top"]),
    "bottom": ("to the bottom", "down to the bottom", *PLACES["bottom"]),
} | {
    f"{vertical} {side}": (
        f"to the {vertical} {side}",
        f"to the {vertical} {side} corner",
        f"into the {vertical} {side} corner",
        *PLACES[f"{vertical} {side}"],
    )
    for vertical in ("top", "bottom")
    for side in ("left", "right")
}
"""Where something is moved to, by layout."""

ADDED_PLACES: dict[str, tuple[str, ...]] = {
    "left": ("on the left", "at the left", "on the left side", "left of it", "to the left of it"),
    "right": (
        "on the right",
        "at the right",
        "on the right side",
        "right of it",
        "to the right of it",
    ),
    "top": ("at the top", "above it", "over it", "on top"),
    "bottom": ("at the bottom", "below it", "under it", "beneath it"),
}
"""Where something is added, by the layout that it would have alone."""


def instruct(edit: Edit, rng: random.Random) -> Caption:
    """Put an edit, its target described, into words; never more than the encoders read."""
    while True:
        words, tags = _worded(edit, rng)
        if words and rng.random() < 0.15:
            at = 0 if rng.random() < 0.5 else len(words)
            words.insert(at, "please")
            tags.insert(at, captions.OTHER)
        if len(words) <= captions.MAX_WORDS:
            break
    text = " ".join(words)
    if rng.random() < 0.3:
        text = text[:1].upper() + text[1:]
    if text and rng.random() < 0.2:
        text += "."
    return Caption(text, tuple(tags))


def vocabulary() -> list[str]:
    """Every word of captions and instructions, in lower case, sorted."""
    texts = [*chain(*WORDINGS.values()), *chain(*DESTINATIONS.values()), *NOUNS, *PRONOUNS]
    texts += [*chain(*ADDED_PLACES.values()), *BIGGER, *SMALLER, "please another now just up down"]
    words = " ".join(texts)
    for field in ("{target}", "{value}", "{a}"):
        words = words.replace(field, " ")
    return sorted({*captions.vocabulary(), *words.lower().split()})


def _worded(edit: Edit, rng: random.Random) -> tuple[list[str], list[int]]:
    """The words and their tags, without trimmings."""
    template = rng.choice(WORDINGS[edit.operation])
    value = _value(edit, rng)
    words: list[str] = []
    tags: list[int] = []
    for part in template.split():
        match part:
            case "{target}":
                new, tag = _target(edit, rng).split(), TARGET
            case "{value}":
                new, tag = value.split(), VALUE
            case "{a}":
                new, tag = [captions.article(value)], VALUE
            case _:
                new, tag = [part], OPERATION
        words += new
        tags += [tag] * len(new)
    return words, tags


def _value(edit: Edit, rng: random.Random) -> str:
    """What something becomes, or what is added and where."""
    match edit.operation:
        case Operation.RECOLOUR:
            return captions.say(world.COLOUR_NAMES[edit.colour], rng)
        case Operation.BACKGROUND:
            return captions.say(world.COLOUR_NAMES[edit.background], rng)
        case Operation.REPLACE:
            return captions.say(SHAPES[edit.shape], rng)
        case Operation.MOVE:
            return rng.choice(DESTINATIONS[world.LAYOUT_NAMES[edit.layout]])
        case Operation.RESIZE:
            return rng.choice(BIGGER if edit.layout == CENTRE else SMALLER)
        case Operation.ADD:
            assert edit.layout in PAIRS
            colour = captions.say(world.COLOUR_NAMES[edit.colour], rng)
            name = f"{colour} {captions.say(SHAPES[edit.shape], rng)}"
            article = "another" if rng.random() < 0.1 else captions.article(name)
            place = rng.choice(ADDED_PLACES[world.LAYOUT_NAMES[edit.layout]])
            return f"{article} {name} {place}"
        case Operation.REMOVE | Operation.NOTHING:
            return ""


def _target(edit: Edit, rng: random.Random) -> str:
    """The object that is meant, as the edit describes it."""
    if edit.target_shape == NO_SHAPE and edit.target_colour == NO_COLOUR:
        return rng.choice(PRONOUNS)
    shape_said = edit.target_shape != NO_SHAPE
    name = captions.say(SHAPES[edit.target_shape], rng) if shape_said else rng.choice(NOUNS)
    if edit.target_colour != NO_COLOUR:
        name = f"{captions.say(world.COLOUR_NAMES[edit.target_colour], rng)} {name}"
    # Without an article only where that cannot be taken for something to be added.
    bare = shape_said and edit.operation is not Operation.MOVE and rng.random() < 0.1
    return name if bare else f"the {name}"
