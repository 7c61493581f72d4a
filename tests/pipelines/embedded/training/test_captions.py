"""Captions and tokenizers: every word known and tagged, and the unknown survived."""

import random

import pytest
import torch
from transformers import CLIPTokenizer, T5Tokenizer

from pipelines.embedded.training import captions, tokenizers, world
from pipelines.embedded.training.captions import BACKGROUND, FIRST, OTHER, RELATION, SECOND


@pytest.fixture(scope="module")
def clip() -> CLIPTokenizer:
    return tokenizers.build_clip_tokenizer()


@pytest.fixture(scope="module")
def t5() -> T5Tokenizer:
    return tokenizers.build_t5_tokenizer()


def _code(layout: str, background: str, *things: tuple[str, str]) -> torch.Tensor:
    row = [world.LAYOUT_NAMES.index(layout), world.COLOUR_NAMES.index(background)]
    for shape, colour in things:
        row += [world.SHAPES.index(shape), world.COLOUR_NAMES.index(colour)]
    if len(things) == 1:
        row += [world.NO_SHAPE, world.NO_COLOUR]
    return torch.tensor(row)


def test_the_standard_wording() -> None:
    rng = random.Random(0)
    one = captions.caption(_code("centre", "orange", ("star", "red")), rng, plain=True)
    assert one.text == "a red star on an orange background"
    assert one.tags == (FIRST,) * 3 + (BACKGROUND,) * 4
    corner = captions.caption(_code("top left", "white", ("ring", "orange")), rng, plain=True)
    assert corner.text == "an orange ring in the top left corner on a white background"


def test_both_orders_of_a_pair_tag_the_left_object_as_first() -> None:
    code = _code("row", "white", ("circle", "red"), ("square", "blue"))
    sentences = {captions.caption(code, random.Random(seed), plain=True) for seed in range(20)}
    assert {sentence.text for sentence in sentences} == {
        "a red circle left of a blue square on a white background",
        "a blue square right of a red circle on a white background",
    }
    for text, tags in sentences:
        tagged = dict(zip(text.split(), tags, strict=True))
        assert (tagged["circle"], tagged["square"], tagged["of"]) == (FIRST, SECOND, RELATION)


def test_every_word_has_a_tag() -> None:
    codes = world.sample_codes(500, torch.Generator().manual_seed(1))
    for sentence in captions.captions(codes, random.Random(1)):
        assert len(sentence.text.split()) == len(sentence.tags)
        assert set(sentence.tags) <= {OTHER, FIRST, SECOND, BACKGROUND, RELATION}


def test_known_words_are_one_token_each(clip: CLIPTokenizer, t5: T5Tokenizer) -> None:
    for word in captions.vocabulary():
        assert len(clip(word).input_ids) == 3, word  # with start and end
        assert len(t5(word).input_ids) == 2, word
        assert len(t5(word.capitalize()).input_ids) == 2, word
        assert len(t5(word.upper()).input_ids) == 2, word


def test_unknown_words_do_not_end_the_sentence(clip: CLIPTokenizer, t5: T5Tokenizer) -> None:
    text = "Ein blåer Kreis, 漢字 🙂 on white"
    ids = clip(text, truncation=True).input_ids
    assert ids.count(clip.eos_token_id) == 1
    assert ids[-1] == clip.eos_token_id
    tokens = t5.convert_ids_to_tokens(t5(text, truncation=True).input_ids)
    assert tokens.count("</s>") == 1
    assert tokens[-3:] == ["▁on", "▁white", "</s>"]


def test_long_sentences_are_cut_to_the_trained_length(clip: CLIPTokenizer, t5: T5Tokenizer) -> None:
    text = " ".join(["a red circle on a white background"] * 20)
    for tokenizer, length in ((clip, tokenizers.CLIP_LENGTH), (t5, tokenizers.T5_LENGTH)):
        batch = tokenizer([text, ""], padding="max_length", truncation=True, max_length=length)
        assert [len(ids) for ids in batch.input_ids] == [length, length]
        assert batch.input_ids[0][-1] == tokenizer.eos_token_id


def test_tokenizers_survive_saving(clip: CLIPTokenizer, t5: T5Tokenizer, tmp_path) -> None:
    codes = world.sample_codes(50, torch.Generator().manual_seed(2))
    texts = [sentence.text for sentence in captions.captions(codes, random.Random(2))]
    for tokenizer in (clip, t5):
        tokenizer.save_pretrained(tmp_path / "tokenizer")
        loaded = type(tokenizer).from_pretrained(tmp_path / "tokenizer")
        assert loaded(texts).input_ids == tokenizer(texts).input_ids
