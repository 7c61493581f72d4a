"""What FLUX.1 takes for a conditioning of its own."""

from __future__ import annotations

import operator
from dataclasses import replace

import pytest
import torch

from pipelines.contracts import TokenGroup
from pipelines.errors import InvalidRequest
from pipelines.flux1.prompt_tensors import PromptTensors
from pipelines.prompts.unread_text import DroppedText, UnreadText
from tests.pipelines import second_family

TENSORS = PromptTensors(torch.zeros(6, 40), torch.zeros(24))


def test_a_conditioning_gives_back_the_tensors_and_counts_their_tokens() -> None:
    unread = UnreadText(dropped=(DroppedText("T5", "tail", max_tokens=4),))
    conditioning = TENSORS.conditioning(num_tokens=4, unread=unread)
    assert all(map(operator.is_, PromptTensors.of(conditioning), TENSORS))
    assert conditioning.sequence_length == 6
    assert (conditioning.num_tokens, conditioning.unread) == (4, unread)


def test_a_conditioning_of_another_family_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"of words, but .* prompt_embeds and pooled_prompt"):
        PromptTensors.of(second_family.conditioning(0, 6))


def test_groups_that_its_tensors_do_not_make_are_refused() -> None:
    """The packed sequence would have other tokens than it was laid out for."""
    conditioning = TENSORS.conditioning(num_tokens=4)
    more = (*conditioning.groups, TokenGroup("reference", 3))
    with pytest.raises(InvalidRequest, match="token groups"):
        PromptTensors.of(replace(conditioning, groups=more))
