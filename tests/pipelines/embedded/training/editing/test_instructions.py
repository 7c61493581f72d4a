"""Sentences say what the edit is, fit the encoders, and have codes that tell edits apart."""

import random
from dataclasses import replace

import torch

from pipelines.embedded.training import captions, world
from pipelines.embedded.training.editing import instructions, text_codes
from pipelines.embedded.training.editing.edits import (
    NOTHING,
    Edit,
    Operation,
    sample_pairs,
)
from pipelines.embedded.training.outlines import SHAPES

RED, BLUE = (world.COLOUR_NAMES.index(name) for name in ("red", "blue"))
CIRCLE, STAR = SHAPES.index("circle"), SHAPES.index("star")
RECOLOUR = Edit(operation=Operation.RECOLOUR, target_shape=CIRCLE, target_colour=RED, colour=BLUE)


def _edits(n: int) -> list[Edit]:
    pairs = sample_pairs(n, torch.Generator().manual_seed(5), random.Random(5))
    return [pair.edit for pair in pairs]


def test_sentences_fit_and_have_a_tag_per_word() -> None:
    rng = random.Random(1)
    known = set(instructions.vocabulary())
    for edit in _edits(600):
        sentence = instructions.instruct(edit, rng)
        words = sentence.text.split()
        assert len(words) == len(sentence.tags) <= captions.MAX_WORDS
        assert {word.lower().rstrip(".") for word in words} <= known


def test_sentences_name_target_and_value() -> None:
    rng = random.Random(2)
    for _ in range(50):
        sentence = instructions.instruct(RECOLOUR, rng)
        by_tag = {tag: [] for tag in sentence.tags}
        for word, tag in zip(sentence.text.lower().rstrip(".").split(), sentence.tags, strict=True):
            by_tag[tag].append(word)
        assert "red" in by_tag[instructions.TARGET]
        assert "blue" in by_tag[instructions.VALUE]
        assert "red" not in by_tag[instructions.VALUE]


def test_an_added_object_has_an_article_and_a_place() -> None:
    place = instructions.PAIRS
    rng = random.Random(3)
    for layout in place:
        edit = Edit(operation=Operation.ADD, shape=STAR, colour=BLUE, layout=layout)
        text = instructions.instruct(edit, rng).text.lower()
        assert " a blue star " in f" {text} " or "another blue star " in text


def test_pooled_codes_differ_by_every_part_of_an_edit() -> None:
    edits = [
        RECOLOUR,
        replace(RECOLOUR, colour=RED),
        replace(RECOLOUR, target_colour=BLUE),
        replace(RECOLOUR, target_shape=STAR),
        replace(RECOLOUR, operation=Operation.REPLACE, colour=-1, shape=STAR),
        NOTHING,
    ]
    codes = text_codes.pooled_codes(edits)
    assert torch.allclose(codes.square().mean(1), torch.ones(len(edits)), atol=1e-4)
    distances = (codes[:1] - codes[1:]).square().mean(1)
    # One of four parts replaced: two directions of a quarter each.
    assert torch.allclose(distances[:3], torch.full((3,), 0.5), atol=1e-4)
    assert bool((distances[3:] > 0.4).all())


def test_token_codes_follow_tags() -> None:
    tags = torch.tensor([[instructions.OPERATION, instructions.TARGET, instructions.VALUE, -1]])
    one, other = (
        text_codes.token_codes([edit], tags)[0]
        for edit in (RECOLOUR, replace(RECOLOUR, colour=STAR))
    )
    changed = (one - other).abs().amax(1) > 1e-3
    assert changed.tolist() == [False, False, True, False]
    nothing = text_codes.token_codes([NOTHING], tags)[0]
    assert (nothing[3] - one[3]).abs().max() < 1e-5
    assert (nothing[0] - one[0]).square().mean() > 1


def test_a_value_says_which_operation_it_is_for() -> None:
    tags = torch.tensor([[instructions.VALUE, -1]])
    small = world.LAYOUT_NAMES.index("small")
    moved, resized = (
        text_codes.token_codes([Edit(operation=operation, layout=small)], tags)[0, 0]
        for operation in (Operation.MOVE, Operation.RESIZE)
    )
    assert (moved - resized).square().mean() > 0.3
