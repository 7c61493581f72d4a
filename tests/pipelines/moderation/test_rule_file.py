from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.errors import ConfigurationError
from pipelines.moderation import PromptRules
from pipelines.moderation.rule_file import DEFAULT_RULES, load_rule_file

GOOD = """
terms:
  sea: [kraken, "{3..9} sharks"]
  drama: [storm]
ignore: [rum and kraken]
categories:
  piracy:
    description: pirates
    phrases: [jolly roger, <sea> attack]
    combinations:
      - {all_of: [sea, drama], within: 4}
"""


@pytest.fixture
def rules_path(tmp_path: Path) -> Path:
    return tmp_path / "my_rules.yaml"


def test_the_default_file_is_valid() -> None:
    assert list(load_rule_file(DEFAULT_RULES).categories) == [
        "sexual_minors",
        "nonconsensual_sexual",
        "graphic_violence",
        "hate",
        "deception",
        "self_harm",
    ]


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("the JOLLY-Roger", True),
        ("5 sharks attack", True),
        ("10 sharks attack", False),
        ("a kraken in a storm", True),
        ("a storm over a kraken", True),
        ("a kraken sleeps far away from any storm", False),
        ("a kraken", False),
        ("rum and kraken in a storm", False),
        ("rum and, kraken in a storm", True),  # not in one piece, so not innocent
        ("a naked child", False),  # a configured file replaces the default
    ],
)
def test_a_configured_file(rules_path: Path, text: str, refused: bool) -> None:
    rules_path.write_text(GOOD, encoding="utf-8")
    found = PromptRules.load(rules_path).match(text)
    assert (found is not None) == refused
    assert found is None or found.category == "piracy"


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("jolly roger", "<ship> sails", ["categories.piracy.phrases[0]", "<ship>", "sea, drama"]),
        ("jolly roger", "'...'", ["categories.piracy.phrases[0]", "no word"]),
        ("jolly roger", "no", ["categories.piracy.phrases[0]", "valid string"]),
        ('"{3..9} sharks"', '"{9..3} sharks"', ["terms.sea[1]", "{9..3}"]),
        ("[sea, drama]", "[sea, rain]", ["piracy.combinations[0]", "rain", "sea, drama"]),
        ("[sea, drama]", "[sea]", ["categories.piracy.combinations[0].all_of", "at least 2"]),
        ("within: 4", "within: 0", ["categories.piracy.combinations[0].within"]),
        ("within: 4", "near: 4", ["categories.piracy.combinations[0].near"]),
        ("    description: pirates\n", "", ["categories.piracy.description", "required"]),
        ("  piracy:", "  Piracy!:", ["categories.Piracy!"]),
        ("ignore:", "ignored:", ["ignored"]),
        ("  drama: [storm]", "  sea: [storm]", ["'sea' is given twice", "line 4"]),
        ("[storm]", "[storm", ["not valid YAML"]),
        ("[storm]", "&a [*a]", ["not valid YAML", "holds itself"]),
        (GOOD, "", ["the file"]),
        (GOOD, "categories: {}", ["categories"]),
    ],
)
def test_errors_name_file_and_entry(rules_path: Path, old: str, new: str, parts: list[str]) -> None:
    assert old in GOOD
    rules_path.write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigurationError) as error:
        PromptRules.load(rules_path)
    for part in [str(rules_path), *parts]:
        assert part in error.value.message


def test_too_many_phrases_are_refused(rules_path: Path) -> None:
    letters = ", ".join(f"w{i}" for i in range(60))
    rules_path.write_text(
        f"terms: {{w: [{letters}]}}\n"
        "categories: {many: {description: many, phrases: [<w> <w> <w>]}}",
        encoding="utf-8",
    )
    with pytest.raises(ConfigurationError, match=r"many\.phrases\[0\]: makes more than"):
        PromptRules.load(rules_path)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.yaml: cannot read"):
        load_rule_file(tmp_path / "absent.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"categories: \xff")
    with pytest.raises(ConfigurationError, match=r"latin\.yaml: prompt rules are not valid YAML"):
        load_rule_file(tmp_path / "latin.yaml")
