from __future__ import annotations

import pickle  # noqa: TID251 - the error crosses processes, which pickle it
import re
import string

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pipelines.errors import ConfigurationError, ContentPolicyViolation
from pipelines.moderation import PromptRules
from pipelines.moderation.confusables import LOOK_ALIKES
from pipelines.moderation.rule_file import DEFAULT_RULES

RULES = PromptRules.load()

PHRASES = ["naked child", "deepfake", "suicide", "severed head", "gory", "heil hitler", "kids nude"]
SINGLE_WORDS = ["rape", "gore", "suicide", "deepfake", "beheading", "entrails", "kike", "lolicon"]
RULE_WORDS = set(re.findall("[a-z]+", DEFAULT_RULES.read_text(encoding="utf-8")))

LOOKS = {
    letter: [look for look, latin in LOOK_ALIKES.items() if latin == letter]
    for letter in string.ascii_lowercase
}
LEET = {"o": "0", "i": "1", "l": "1", "e": "3", "a": "4@", "s": "5$", "t": "7"}
INVISIBLE = ["\u200b", "\u200d", "\ufeff", "\u00ad", "\u2060", "\u0301", "\x07"]

phrases = st.sampled_from(PHRASES)
nothing = st.just("")


@st.composite
def disguised(draw: st.DrawFn) -> str:
    """A forbidden phrase in random case, look-alikes and fullwidth, with invisible insertions."""
    return "".join(
        draw(st.sampled_from([c, c.upper(), chr(ord(c) + 0xFEE0), *LOOKS[c]]))
        + draw(st.sampled_from(["", *INVISIBLE]))
        if c != " "
        else draw(st.sampled_from([" ", "\u3000", "\n", ", "]))
        for c in draw(phrases)
    )


@st.composite
def leet(draw: st.DrawFn) -> str:
    """A forbidden phrase with up to half of each word's letters written as digits or signs."""
    words: list[str] = []
    for word in draw(phrases).split():
        letters = list(word)
        places = [i for i, c in enumerate(letters) if c in LEET]
        chosen = draw(st.lists(st.sampled_from(places), unique=True)) if places else []
        for i in chosen[: len(letters) // 2]:
            letters[i] = draw(st.sampled_from(LEET[letters[i]]))
        words.append("".join(letters))
    return " ".join(words)


@st.composite
def spelled_out(draw: st.DrawFn) -> str:
    """A forbidden phrase letter by letter, words parted as the letters are or more widely."""
    separator = draw(st.sampled_from([" ", ".", "-", "_", "*", " . ", "\u00b7"]))
    between = draw(st.sampled_from([separator, "   ", separator + "  "]))
    return between.join(separator.join(word) for word in draw(phrases).split())


@st.composite
def drawn_out(draw: st.DrawFn) -> str:
    """A forbidden phrase with some letters three times or more."""
    return "".join(
        c * draw(st.sampled_from([1, 3, 4, 9])) if c != " " else c for c in draw(phrases)
    )


@given(text=st.one_of(disguised(), leet(), spelled_out(), drawn_out()))
@example(text="sU\u0456C1De")
@example(text="s u i c i d e")
def test_obfuscated_phrases_still_match(text: str) -> None:
    assert RULES.match(text) is not None
    assert RULES.match(f"a painting, {text}, in oils") is not None


@given(
    word=st.sampled_from(SINGLE_WORDS),
    before=st.text(string.ascii_lowercase, max_size=4),
    after=st.text(string.ascii_lowercase, max_size=4),
)
@example(word="rape", before="g", after="")
@example(word="gore", before="", after="tex")
def test_a_term_inside_a_longer_word_does_not_match(word: str, before: str, after: str) -> None:
    longer = before + word + after
    assume(longer not in RULE_WORDS)
    assume(not re.search(r"(.)\1\1", longer))  # that would be the word drawn out
    assert RULES.match(f"a {longer} on a table") is None


@given(text=st.text())
def test_any_text_is_read(text: str) -> None:
    found = RULES.match(text)
    assert found is None or found.category in RULES.categories


@pytest.mark.parametrize(
    "filler",
    [
        "a",
        "a ",
        "$",
        "1",
        "1l",
        "a.",
        "nude ",
        "n u d ",
        "jews are ",
        "e\u0300\u0316",
        "-",
        "ﷺ",
        "nu-",
    ],
)
def test_the_longest_prompts_are_matched_to_their_end(filler: str) -> None:
    text = (filler * 32_000)[:31_980]
    assert RULES.match(text) is None
    found = RULES.match(text + "   suicide scene")
    assert found is not None
    assert found.category == "self_harm"


def test_check_raises_what_the_client_needs_and_does_not_repeat_the_word() -> None:
    RULES.check("a red square", param="prompt")
    with pytest.raises(ContentPolicyViolation) as caught:
        RULES.check("a thinspo collage", param="negative_prompt")
    error = caught.value
    assert (error.stage, error.category, error.param) == ("prompt", "self_harm", "negative_prompt")
    assert (error.score, error.threshold, error.image_index) == (1.0, 1.0, None)
    assert error.message.startswith("negative_prompt: ")
    assert "self_harm (suicide and self-harm)" in error.message
    assert "thinspo" not in error.message
    assert pickle.loads(pickle.dumps(error)).category == "self_harm"  # noqa: S301


def test_a_match_names_its_rule() -> None:
    found = RULES.match("the naked child")
    assert found is not None
    assert found.rule == "categories.sexual_minors.combinations[0]"


def test_the_first_category_of_the_file_is_named() -> None:
    found = RULES.match("suicide, gore, and a naked child")
    assert found is not None
    assert found.category == "sexual_minors"


def test_disabled_categories_do_not_match() -> None:
    rules = PromptRules.load(disabled=["graphic_violence"])
    assert "graphic_violence" not in rules.categories
    assert rules.match("gore") is None
    found = rules.match("suicide and gore")
    assert found is not None
    assert found.category == "self_harm"


def test_disabling_an_unknown_category_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"no category violence; it has: sexual_minors"):
        PromptRules.load(disabled=["violence"])
