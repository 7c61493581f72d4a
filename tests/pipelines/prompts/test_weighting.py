"""Weights of words: what is read, and what is refused."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import InvalidRequest
from pipelines.prompts.weighting import WeightedSpan, WeightedText, has_weights, parse_weights


def weights(prompt: str) -> list[tuple[str, float]]:
    """Runs of the text with their weights, rounded."""
    read = parse_weights(prompt)
    runs: list[tuple[str, float]] = []
    for place, character in enumerate(read.text):
        weight = round(read.weight_at(place), 6)
        if runs and runs[-1][1] == weight:
            runs[-1] = (runs[-1][0] + character, weight)
        else:
            runs.append((character, weight))
    return runs


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red fox", [("a red fox", 1.0)]),
        ("a (red:1.3) fox", [("a ", 1.0), ("red", 1.3), (" fox", 1.0)]),
        ("a (red) fox", [("a ", 1.0), ("red", 1.1), (" fox", 1.0)]),
        ("((red)) fox", [("red", 1.21), (" fox", 1.0)]),
        ("(a red fox : .5 )", [("a red fox ", 0.5)]),
        ("(red fox:0)(blue:2)", [("red fox", 0.0), ("blue", 2.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "(a (house:1.3) on a (hill:0.5), sun:1.2)",
            [("a ", 1.2), ("house", 1.56), (" on a ", 1.2), ("hill", 0.6), (", sun", 1.2)],
        ),
        ("(a (b:1.25):1.6)", [("a ", 1.6), ("b", 2.0)]),
        (r"a fox \(vulpes\)", [("a fox (vulpes)", 1.0)]),
        (r"(a fox \(vulpes:2\):1.5)", [("a fox (vulpes:2)", 1.5)]),
        (r"\\(a:1.5)", [("\\", 1.0), ("a", 1.5)]),
        (r"C:\fox", [(r"C:\fox", 1.0)]),
        (
            "[red] (at 16:9 ratio:1.5) [fox:1.3]",
            [("[red] ", 1.0), ("at 16:9 ratio", 1.5), (" [fox:1.3]", 1.0)],
        ),
        ("(one: two)", [("one: two", 1.1)]),
        ("()", []),
    ],
)
def test_what_is_read(prompt: str, expected: list[tuple[str, float]]):
    assert weights(prompt) == expected


def test_a_weight_of_one_is_none_at_all():
    assert parse_weights("a (red:1) fox") == WeightedText("a red fox")
    assert parse_weights("a ((red:2):.5) fox") == WeightedText("a red fox")
    assert parse_weights("a (red:1.5)") == WeightedText("a red", (WeightedSpan(2, 5, 1.5),))


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        ("a (red fox", "position 2 is never closed"),
        ("a red) fox", "position 5 is never opened"),
        ("((a) b", "position 0 is never closed"),
        (":)", "position 1 is never opened"),
        ("a (16:9) frame", "'(16:9)' has the weight 9; weights are 0 to 2"),
        ("(a:2.01)", "'(a:2.01)' has the weight 2.01"),
        ("(a:-0.1)", "'(a:-0.1)' has the weight -0.1"),
        ("((a:1.5) b:1.5)", "has the weight 2.25; .* multiplied"),
        ("(" * 17 + "a:1" + ")" * 17, "more than 16 parentheses inside each other"),
    ],
)
def test_what_is_refused(prompt: str, why: str):
    with pytest.raises(InvalidRequest, match=why.replace("(", r"\(").replace(")", r"\)")) as error:
        parse_weights(prompt, param="negative_prompt")
    assert error.value.param == "negative_prompt"
    assert error.value.message.startswith("negative_prompt: ")
    assert r"\(" in error.value.message


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_any_text_can_be_written_with_backslashes(text: str):
    escaped = "".join(f"\\{each}" if each in "\\()" else each for each in text)
    assert parse_weights(escaped) == WeightedText(text)
    assert has_weights(escaped) == (escaped != text)


@given(st.text("a(:1.2) \\", max_size=30))
def test_what_has_no_syntax_says_what_it_says(prompt: str):
    if not has_weights(prompt):
        assert parse_weights(prompt) == WeightedText(prompt)


def test_long_prompts_take_no_time():
    began = time.perf_counter()
    for unit in ("(a:1)", "(a", "\\(", ":  ", "(:1" + " " * 50):
        prompt = (unit * 32_000)[:32_000]
        with contextlib.suppress(InvalidRequest):
            parse_weights(prompt)
    nested = "(" * 16 + "a" * 32_000 + ":1)" * 16
    assert parse_weights(nested) == WeightedText("a" * 32_000)
    assert time.perf_counter() - began < 5
