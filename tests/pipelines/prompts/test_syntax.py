from __future__ import annotations

import subprocess
import sys
import unicodedata
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.errors import InvalidRequest, UnsupportedFeature
from pipelines.prompts.syntax import MAX_RATIO, ParsedPrompt, parse_prompt, size_for_ratio


@pytest.mark.parametrize(
    "text",
    [
        "a red square on a white background",
        "  two  spaces\tand a tab,\r\nand a line \n",
        "[cinematic] a cat",
        "[GENERAL] portrait",
        "a cat [GEN]",
        "[[EDIT]] as a sign",
        "a well-known half-timbered house - at dusk -- almost night --",
        "she said —no, a dog–like creature",
        "—art deco poster",
        "a bag-of-tricks --argyle pattern --november --vintage",
        "the command rm --recursive on a terminal screen",
        "16:9 widescreen still, ar 16:9",
        "-ar 16:9",
        "(neon glow:1.3) city",
        "猫 🐈‍⬛ Ã©",
    ],
)
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert parse_prompt(text) == ParsedPrompt(text=text)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("[GEN] a cat", "a cat"),
        ("  [ gen ]\na cat ", "a cat "),
        ("[Gen]a cat", "a cat"),
        ("[GEN][GEN] a cat", "a cat"),
        ("[GEN] [cinematic] a cat", "[cinematic] a cat"),
    ],
)
def test_the_gen_prefix_is_removed(text: str, parsed: str) -> None:
    assert parse_prompt(text) == ParsedPrompt(text=parsed, prefix="gen")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[vqa] how many cats?", ["[VQA]", "vision-language model"]),
        (" [ Caption ]", ["[CAPTION]", "vision-language model"]),
    ],
)
def test_other_tasks_name_the_missing_model(text: str, parts: list[str]) -> None:
    with pytest.raises(UnsupportedFeature) as error:
        parse_prompt(text)
    assert error.value.param == "prompt"
    assert all(part in error.value.message for part in [*parts, "this server has none"])


@pytest.mark.parametrize(
    ("text", "parsed", "ratio"),
    [
        ("a cat --ar 16:9", "a cat", (16, 9)),
        ("a cat --ar=16:9", "a cat", (16, 9)),
        ("a cat --AR 3:2 ", "a cat", (3, 2)),
        ("a cat --aspect 1:3", "a cat", (1, 3)),
        ("a cat —ar 16:9", "a cat", (16, 9)),
        ("a cat –ar=16:9", "a cat", (16, 9)),
        ("a cat −−ar 16:9", "a cat", (16, 9)),
        ("--ar 3:1 a cat", "a cat", (3, 1)),
        ("a cat --ar 16:9 in oils", "a cat in oils", (16, 9)),
        ("a cat --ar 16:9, in oils", "a cat, in oils", (16, 9)),
        ("a cat\n--ar 16:9\nin oils", "a cat\nin oils", (16, 9)),
        ("a cat --ar 16:9 --ar 32:18", "a cat", (16, 9)),
        ("[GEN] a cat --ar 1:1", "a cat", (1, 1)),
    ],
)
def test_the_ratio_is_read_and_removed(text: str, parsed: str, ratio: tuple[int, int]) -> None:
    found = parse_prompt(text)
    assert (found.text, found.aspect_ratio, found.negative) == (parsed, ratio, None)


@pytest.mark.parametrize("text", ["[EDIT] make it blue", " [ edit ]\tmake it blue"])
def test_an_edit_has_a_picture(text: str) -> None:
    parsed = parse_prompt(text, has_picture=True)
    assert parsed == ParsedPrompt(text="make it blue", prefix="edit")
    with pytest.raises(InvalidRequest, match=r"prompt: \[EDIT\] needs a picture .*`image`"):
        parse_prompt(text)


def test_gen_has_no_picture() -> None:
    with pytest.raises(InvalidRequest, match=r"prompt: \[GEN\] draws from words alone"):
        parse_prompt("[GEN] a cat", has_picture=True)
    assert parse_prompt("a cat", has_picture=True) == ParsedPrompt(text="a cat")


@pytest.mark.parametrize("text", ["[GEN] [EDIT] a cat", "[EDIT][GEN] a", "[EDIT] --ar 1:1 [GEN] a"])
def test_one_prefix(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"both \[GEN\] and \[EDIT\]"):
        parse_prompt(text, has_picture=True)


@pytest.mark.parametrize(
    ("text", "parsed", "negative"),
    [
        ("a cat --no dogs", "a cat", "dogs"),
        ("a cat --NO=dogs, blur ", "a cat", "dogs, blur"),
        ("a cat --no dogs --no blur", "a cat", "dogs, blur"),
        ("--no dogs and birds --ar 2:1", "", "dogs and birds"),
        ("a cat --ar 2:1 --no dogs", "a cat", "dogs"),
        ("a cat --no dogs --ar 2:1 in oils", "a cat in oils", "dogs"),
        ("a cat --no dogs —ar 2:1 in oils", "a cat in oils", "dogs"),
        ("a cat --no a dog -- at night", "a cat", "a dog -- at night"),
        ("a cat --no\ndogs", "a cat", "dogs"),
        ("[EDIT] a cat --no dogs", "a cat", "dogs"),
    ],
)
def test_what_is_not_to_be_there(text: str, parsed: str, negative: str) -> None:
    found = parse_prompt(text, has_picture=text.startswith("[EDIT]"), may_be_blank=True)
    assert (found.text, found.negative) == (parsed, negative)


@pytest.mark.parametrize(
    "text", ["a cat --no", "a cat --no --ar 1:1", "a cat --no , ", "--no= x --no"]
)
def test_no_without_words(text: str) -> None:
    with pytest.raises(InvalidRequest, match="prompt: --no says nothing"):
        parse_prompt(text)


@pytest.mark.parametrize("filler", [" ", "\n", "= ", "a ", "a --no ", " -"])
def test_what_is_not_to_be_there_may_be_long(filler: str) -> None:
    assert parse_prompt(f"a cat --no {filler * 10_000}dogs").text == "a cat"


def test_a_blank_text_where_it_may_be() -> None:
    assert parse_prompt(" ", may_be_blank=True) == ParsedPrompt(text=" ")
    parsed = parse_prompt("[EDIT]", has_picture=True, may_be_blank=True)
    assert parsed == ParsedPrompt(text="", prefix="edit")


BAD_RATIOS = ["4:1", "1:4", "301:100", "0:1", "1:0", "-1:1", "16x9", "1.5:1", "16:9:4", "wide", "="]


@pytest.mark.parametrize(
    "option", [*BAD_RATIOS, "", "１６:９", "--v 5", "9" * 5000, "1:" + "1" * 5000]
)
def test_bad_ratios_name_the_allowed_range(option: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^text: .*1:3 to 3:1.*--ar 16:9") as error:
        parse_prompt(f"a cat --ar {option}", param="text")
    assert error.value.param == "text"
    assert len(error.value.message) < 200


def test_two_different_ratios_are_an_error() -> None:
    with pytest.raises(InvalidRequest, match=r"given twice, 16:9 and 3:2"):
        parse_prompt("a cat --ar 16:9 --ar 3:2")


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("a cat --seed 42", "--seed is not read from the prompt; use the request field `seed`"),
        ("a cat --negative dogs", "`negative_prompt`"),
        ("a cat --no dogs --seed 3", "`seed`"),
        ("a cat --v 6", "`model`"),
        ("a cat --V 6.1", "--v is not"),
        ("a cat --stylize 250", "--stylize is not read from the prompt; leave it out"),
        ("a cat --steps=20", "`num_inference_steps`"),
        ("a cat —seed 42", "`seed`"),
        ("a cat --ar 16:9 --seed 1", "`seed`"),
        ("--q 2 a cat", "`quality`"),
    ],
)
def test_foreign_options_name_the_field_to_use(text: str, advice: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        parse_prompt(text)
    assert advice in error.value.message
    assert "The options in a prompt are --ar W:H and --no WORDS" in error.value.message
    assert error.value.param == "prompt"


@pytest.mark.parametrize(
    "text", ["", " \n\t", "[GEN]", "--ar 16:9", "[gen] --ar 1:1 ", "\u200b\u00a0"]
)
def test_blank_prompts_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"prompt: .*blank"):
        parse_prompt(text)


@pytest.mark.parametrize("code", [*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F])
def test_control_characters_are_named(code: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"negative_prompt: .*U\+{code:04X} at position 2"):
        parse_prompt(f"a {chr(code)}cat", param="negative_prompt")


@pytest.mark.parametrize("text", ["a \ud83d cat", "a \ude00", "\ude00\ud83d"])
def test_lone_surrogates_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="surrogate"):
        parse_prompt(text)


@given(text=st.text())
@example(text="--ar 16:9 --ar")
@example(text="[edit")
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        parsed = parse_prompt(text)
    except InvalidRequest as error:
        refused_field = error.param
    else:
        refused_field = "prompt"
        assert parsed.text.strip()
        assert not any(unicodedata.category(c) == "Cs" for c in parsed.text)
    assert refused_field == "prompt"


_SYNTAX = ["[GEN]", " [gen] ", "--ar 2:1", "--ar 2:1,", " ", "a cat", "]", "\n", "[GEN]--ar 2:1 ",
           "--no ", "--no dogs "]  # fmt: skip


@given(text=st.lists(st.sampled_from(_SYNTAX), max_size=9).map("".join))
@example(text="--ar 2:1 [GEN] a cat")
@example(text="--ar 2:1 [GEN]--ar 2:1 a cat")
def test_what_was_parsed_is_parsed_to_itself(text: str) -> None:
    try:
        parsed = parse_prompt(text)
    except InvalidRequest:
        return
    assert parse_prompt(parsed.text) == ParsedPrompt(text=parsed.text)


def test_syntax_within_syntax_has_an_end() -> None:
    with pytest.raises(InvalidRequest, match="once each"):
        parse_prompt("[GEN]--ar 1:1 " * 2000 + "a cat")


@pytest.mark.parametrize(
    ("filler", "kept"),
    [
        ("--ar 1:1 ", 0),
        ("[GEN]", 0),
        (" ", 31_993),
        ("-", 31_993),
        ("—ar ", 31_993),
        ("--no-", 31_993),
        ("[ ", 31_993),
    ],
)
def test_long_prompts_are_read_to_their_end(filler: str, kept: int) -> None:
    whole = filler * (31_993 // len(filler)) if not kept else (filler * 31_993)[:31_993]
    assert parse_prompt(f"{whole} a cat").text == (f"{whole} a cat" if kept else "a cat")


@pytest.mark.parametrize(
    ("ratio", "area", "size"),
    [
        ((1, 1), 1024 * 1024, (1024, 1024)),
        ((16, 9), 1024 * 1024, (768, 1360)),
        ((9, 16), 1024 * 1024, (1360, 768)),
        ((3, 1), 1024 * 1024, (592, 1776)),
        ((1, 1), 64 * 64, (64, 64)),
        ((16, 9), 64 * 64, (48, 80)),
        ((3, 1), 4096 * 4096, (672, 2016)),
    ],
)
def test_known_sizes(ratio: tuple[int, int], area: int, size: tuple[int, int]) -> None:
    assert size_for_ratio(ratio, multiple=16, area=area, max_side=2048) == size


ratios = st.tuples(st.integers(1, 100), st.integers(1, 100)).filter(
    lambda ratio: max(ratio) <= MAX_RATIO * min(ratio)
)


@given(ratio=ratios, side=st.integers(128, 2048), max_side=st.sampled_from([512, 1024, 2048]))
def test_sizes_are_on_the_grid_and_close(ratio: tuple[int, int], side: int, max_side: int) -> None:
    height, width = size_for_ratio(ratio, multiple=16, area=side * side, max_side=max_side)
    assert height % 16 == 0
    assert width % 16 == 0
    assert max(height, width) <= max_side
    wanted = ratio[0] / ratio[1]
    reachable = min(side * side, max_side * max_side * min(wanted, 1 / wanted))
    step = 16 / min(height, width)
    assert abs(width / height / wanted - 1) <= step
    assert abs(height * width / reachable - 1) <= 2 * step


@given(
    ratio=ratios,
    area=st.integers(1, 2048 * 2048),
    multiple=st.sampled_from([8, 16, 32]),
    max_side=st.integers(64, 2048),
    min_side=st.integers(16, 256),
    max_area=st.none() | st.integers(256, 2048 * 2048),
)
@example(ratio=(29, 87), area=1181**2, multiple=16, max_side=2048, min_side=16, max_area=None)
@example(ratio=(1, 1), area=72 * 72, multiple=16, max_side=80, min_side=64, max_area=64 * 80)
def test_a_turned_ratio_has_the_turned_size(ratio: tuple[int, int], **limits: Any) -> None:
    def size_or_none(width: int, height: int) -> tuple[int, int] | None:
        try:
            return size_for_ratio((width, height), **limits)
        except ValueError:
            return None

    size, turned = size_or_none(*ratio), size_or_none(*reversed(ratio))
    assert turned == (size and size[::-1])


@given(ratio=ratios, side=st.integers(64, 1024))
def test_the_area_limit_holds(ratio: tuple[int, int], side: int) -> None:
    height, width = size_for_ratio(
        ratio, multiple=16, area=side * side, max_side=2048, max_area=side * side
    )
    assert height * width <= side * side


@given(ratio=ratios)
def test_the_smallest_side_holds_and_the_area_grows_to_it(ratio: tuple[int, int]) -> None:
    height, width = size_for_ratio(ratio, multiple=16, area=64 * 64, min_side=64, max_side=512)
    assert min(height, width) >= 64
    assert abs(width / height / (ratio[0] / ratio[1]) - 1) <= 0.25


def test_impossible_limits_are_an_error() -> None:
    with pytest.raises(ValueError, match="no size has sides from 16 to 8, multiples of 16"):
        size_for_ratio((1, 1), multiple=16, area=4096, max_side=8)


def test_the_module_needs_no_torch() -> None:
    modules = "sys, pipelines.prompts.syntax, pipelines.moderation"
    code = f"import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
