"""What a text encoder did not take in of a prompt, quoted as the client wrote it."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import CLIPTokenizer, T5Tokenizer

from pipelines.contracts import TextPrompt
from pipelines.embedded import EMBEDDED_MODEL_DIR
from pipelines.prompts.unread_text import UnreadText
from pipelines.stages.prompt_reading import Reading, read_texts
from pipelines.stages.text_encoder import TextEncoderStage

CLIP = CLIPTokenizer.from_pretrained(EMBEDDED_MODEL_DIR, subfolder="tokenizer")
T5 = T5Tokenizer.from_pretrained(EMBEDDED_MODEL_DIR, subfolder="tokenizer_2")


def in_t5(text: str, max_tokens: int = 16) -> Reading:
    (reading,) = read_texts(T5, [text], max_tokens)
    return reading


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a red circle", ()),
        ("A RED\n\tcircle, left of a Blue square!", ()),
        ("红色的 circle", ("红色的",)),
        ("a 🦊 and a 🦊", ("🦊",)),
        ("a wobbly, Frobnicated circle.", ("wobbly", "Frobnicated")),
        ("a naïve circle and e\u0301clair", ("naïve", "e\u0301clair")),
        ("a (red:1.3) circle", ("(red:1.3)",)),
        ('a "wobbly" circle', ("wobbly",)),
        ("红" * 100, ("红" * 100,)),
        ("", ()),
    ],
)
def test_unknown_words(text: str, words: tuple[str, ...]) -> None:
    assert in_t5(text).unknown_words == words


def test_a_bracket_at_the_beginning_of_a_word_is_known() -> None:
    assert "(" not in in_t5("( a circle )").unknown_words


def test_the_dropped_end_is_as_written() -> None:
    text = "a Red circle  LEFT of a Blue\nsquare on a white background with a Green, 绿 star"
    reading = in_t5(text)
    assert reading.dropped_text == ", 绿 star"
    assert text.endswith(reading.dropped_text)
    # Unknown words of the end are told of by the end.
    assert reading.unknown_words == ()
    assert in_t5(text, 64) == Reading(unknown_words=("绿",))


@pytest.mark.parametrize("length", range(2, 20))
def test_what_is_read_and_what_is_not_make_the_text(length: int) -> None:
    text = "a Red circle left of a Blue square on a white background"
    dropped = in_t5(text, length).dropped_text
    kept = text.removesuffix(dropped)
    ids = T5(text, truncation=True, max_length=length).input_ids
    assert T5(kept.strip()).input_ids == ids


def test_marks_of_the_tokenizers_own() -> None:
    assert in_t5("a </s> red <unk> circle <pad>").marks == ("</s>", "<unk>", "<pad>")
    (reading,) = read_texts(CLIP, ["a <|endoftext|> circle"], 32)
    assert reading == Reading(marks=("<|endoftext|>",))


def test_clip_knows_bytes_and_has_a_limit_of_its_own() -> None:
    one, other = read_texts(CLIP, ["红色 🦊 wobbly", "A Red circle " * 12], 32)
    assert one == Reading()
    assert other.dropped_text == "A Red circle A Red circle"


def test_both_encoders_of_a_stage(dev_like: Path) -> None:
    """The tiny model's CLIP reads 77 letters, its T5 as many words as it is told."""
    encoder = TextEncoderStage.load(str(dev_like))
    text = "the red cat on the left of the dog " * 3
    short, long, odd = encoder.encode(
        [
            TextPrompt(prompt=each, max_sequence_length=64)
            for each in ("a cat", text.strip(), "a 红 cat")
        ]
    )
    assert short.unread == UnreadText()
    (dropped,) = long.unread.dropped
    assert (dropped.encoder, dropped.max_tokens) == ("CLIP", None)
    assert text.strip().endswith(dropped.text)
    assert odd.unread.unknown_words == ("红",)
