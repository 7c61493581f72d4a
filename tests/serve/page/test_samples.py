from __future__ import annotations

import pytest

from pipelines.embedded.training.captions import MAX_WORDS, vocabulary
from serve.page.samples import samples_of

SHAPES = samples_of("sluice-shapes")


@pytest.mark.parametrize("prompt", SHAPES.prompts)
def test_the_carried_model_knows_every_word_of_its_examples(prompt: str):
    assert set(prompt.split()) <= set(vocabulary())
    assert len(prompt.split()) <= MAX_WORDS


def test_other_models_are_offered_ratios():
    offered = samples_of("flux.1-schnell")
    assert offered == samples_of("one that nobody knows")
    assert all(":" in shape for shape in offered.shapes)
