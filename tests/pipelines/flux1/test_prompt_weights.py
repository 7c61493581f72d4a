"""What weights do to embeddings, against a small reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.contracts import TextPrompt
from pipelines.errors import InvalidRequest
from pipelines.flux1.prompt_tensors import PromptTensors
from pipelines.flux1.prompt_weights import token_weights, weigh
from pipelines.prompts.weighting import parse_weights
from pipelines.stages.text_encoder import TextEncoderStage

LENGTH = 16


def reference(embeds: np.ndarray, weights: list[float]) -> np.ndarray:
    """A1111's rule in float64, token by token: multiplied, and then as loud as before."""
    scaled = np.array([row * weight for row, weight in zip(embeds, weights, strict=True)])
    return scaled * (np.abs(embeds).mean() / np.abs(scaled).mean())


def prompt(text: str, *, is_weighted: bool = True) -> TextPrompt:
    return TextPrompt(prompt=text, max_sequence_length=LENGTH, is_weighted=is_weighted)


@pytest.fixture(scope="module")
def stage(dev_like: Path) -> TextEncoderStage:
    return TextEncoderStage.load(str(dev_like))


def encoded(stage: TextEncoderStage, *prompts: TextPrompt) -> list[PromptTensors]:
    return [PromptTensors.of(each) for each in stage.encode(prompts)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_rule(dtype: torch.dtype) -> None:
    embeds = torch.randn(6, 8, generator=torch.Generator().manual_seed(3)).to(dtype)
    weights = [1.0, 1.3, 0.0, 2.0, 0.5, 1.0]
    found = weigh(embeds, torch.tensor(weights))
    expected = reference(embeds.double().numpy(), weights)
    assert found.dtype == dtype
    bound = 1e-6 if dtype == torch.float32 else 0.01
    assert np.abs(found.double().numpy() - expected).max() <= bound * np.abs(expected).max()
    loudness = embeds.float().abs().mean()
    assert torch.isclose(found.float().abs().mean(), loudness, rtol=1e-2)


def test_weights_of_one_are_the_same_tensor_and_all_zeros_stay_zeros() -> None:
    embeds = torch.randn(3, 4)
    assert weigh(embeds, torch.ones(3)) is embeds
    assert torch.equal(weigh(embeds, torch.zeros(3)), torch.zeros(3, 4))


def test_a_token_has_the_weight_of_its_first_character() -> None:
    text = parse_weights("a (red:1.5) c(a:0.5)t")
    assert text.text == "a red cat"
    places = [(0, 1), (1, 5), (5, 7), (6, 9), (7, 9), (0, 0), (1, 2)]
    expected = [1.0, 1.5, 1.0, 1.0, 0.5, 1.0, 1.0]
    assert token_weights(text, places).tolist() == expected


def test_the_stage_weighs_the_tokens_of_the_words(stage: TextEncoderStage) -> None:
    plain, weighted = encoded(
        stage, prompt("a red cat on a dog"), prompt("a (red:1.5) cat on a (dog:0.25)")
    )
    assert torch.equal(plain.pooled_prompt_embeds, weighted.pooled_prompt_embeds)
    ratios = weighted.prompt_embeds.double() / plain.prompt_embeds.double()
    factors = ratios.median(dim=1).values
    assert torch.allclose(ratios, factors[:, None].expand_as(ratios), rtol=1e-4)
    # Words are one token each in the tiny model; an end mark, and padding, come behind.
    words = torch.tensor([1, 1.5, 1, 1, 1, 0.25] + [1] * (LENGTH - 6), dtype=torch.float64)
    assert torch.allclose(factors / factors[0], words, rtol=1e-4)
    expected = reference(plain.prompt_embeds.double().numpy(), words.tolist())
    assert np.allclose(weighted.prompt_embeds.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_weights_of_one_change_no_bit(stage: TextEncoderStage) -> None:
    for written in ("a (red:1.0) cat", "a ((red:2):0.5) cat", "a red cat"):
        plain, ones = encoded(stage, prompt("a red cat", is_weighted=False), prompt(written))
        assert all(map(torch.equal, plain, ones)), written


def test_parentheses_are_text_where_weights_are_off(stage: TextEncoderStage) -> None:
    off, on, escaped = encoded(
        stage,
        prompt("a (red:1.5) cat", is_weighted=False),
        prompt("a (red:1.5) cat"),
        prompt(r"a \(red:1.5\) cat"),
    )
    assert not torch.equal(off.prompt_embeds, on.prompt_embeds)
    assert all(map(torch.equal, off, escaped))


def test_a_weighted_prompt_leaves_others_in_its_batch_alone(stage: TextEncoderStage) -> None:
    texts = [prompt("a cat"), prompt("a (cat:1.7)"), prompt("the dog")]
    together = encoded(stage, *texts)
    for text, found in zip(texts, together, strict=True):
        (alone,) = encoded(stage, text)
        assert all(map(torch.equal, alone, found))


def test_words_that_are_cut_off_are_told_without_their_syntax(stage: TextEncoderStage) -> None:
    words = " ".join(["cat"] * LENGTH)
    (read,) = stage.encode([prompt(f"{words} (red:1.5) dog")])
    (dropped, *_) = read.unread.dropped
    assert dropped.text.endswith("cat red dog")


def test_bad_weights_are_refused(stage: TextEncoderStage) -> None:
    with pytest.raises(InvalidRequest, match="weight 3"):
        stage.encode([prompt("a (cat:3)")])
