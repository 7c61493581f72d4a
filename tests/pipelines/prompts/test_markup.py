"""Markup of other tools in a prompt is named; ordinary brackets and colons are not."""

from __future__ import annotations

import pytest

from pipelines.prompts.markup import markup_warnings, quoted


@pytest.mark.parametrize(
    "text",
    [
        "(red:1.3)",
        "(red:1)",
        "( a cat, a dog : 0.8 )",
        "(a:-.5)",
        "(红:1.2)",
        "((fat))",
        "(((a cat)))",
    ],
)
def test_weights(text: str):
    (said,) = markup_warnings("prompt", f"a {text} cat")
    assert said.startswith(
        f'prompt: weights such as "{text}" have no effect without prompt_weighting'
    )
    assert "as written" in said


@pytest.mark.parametrize("text", ["(red:1.3)", "<lora:x:1>"])
def test_nothing_is_said_of_what_the_encoder_reads(text: str):
    """It may have no token for it, which another warning says then."""
    (said,) = markup_warnings("prompt", f"一个红色的圆 a {text} circle")
    assert "read" not in said


@pytest.mark.parametrize(
    "text", ["<lora:x:1>", "<LoRA:x>", "<lyco:some name:0.5:1>", "< lora : x >"]
)
def test_adapters(text: str):
    (said,) = markup_warnings("negative_prompt", f"a cat {text}")
    assert said.startswith(f'negative_prompt: "{text}" loads nothing')
    assert "as written" in said


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a (red) cat",
        "(16:9)",
        "(at 12:30)",
        "ratio 4:3",
        "a: 1",
        "<b>bold</b>",
        "(()) :1)",
        "x<3",
    ],
)
def test_ordinary_text(text: str):
    assert markup_warnings("prompt", text) == []


@pytest.mark.parametrize(
    "unit", ["(", "(a", "(a:", "(a: ", "((", "<lora:", "< ", "(" + "a:" * 149, "(a:1    "]
)
def test_a_prompt_of_markup_alone_is_read_in_linear_time(unit: str):
    """With a pattern that backtracks over all of it, this would not end."""
    assert len(markup_warnings("prompt", (unit * 200_000)[:200_000])) <= 1
    assert len(markup_warnings("prompt", unit + " " * 200_000)) <= 1


def test_many_are_quoted_in_part():
    text = " ".join(f"(w{index}:1.1)" for index in range(10))
    (said,) = markup_warnings("prompt", text)
    assert '"(w2:1.1)" and 7 more have' in said
    assert quoted(["x" * 100]) == f'"{"x" * 60}…"'
