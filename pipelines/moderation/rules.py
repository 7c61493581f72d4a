"""`PromptRules`: whether a prompt is refused, and by which category."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipelines.errors import ConfigurationError, ContentPolicyViolation
from pipelines.moderation.lexicon import Lexicon
from pipelines.moderation.phrases import Pattern, PhraseIndex, Span, parse_phrase
from pipelines.moderation.reading import Word, read
from pipelines.moderation.rule_file import DEFAULT_RULES, RuleFile, entry_name, load_rule_file

_MAX_PATTERNS = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleMatch:
    """The rule that refuses a prompt: its category and its place in the rule file."""

    category: str
    rule: str


class _Ignored(NamedTuple):
    """Label of an innocent phrase."""


class _Term(NamedTuple):
    """Label of an entry of the term list `name`."""

    name: str


class _Phrase(NamedTuple):
    """Label of a phrase that refuses on its own; `order` is its category's place in the file."""

    order: int
    rule: str


_Label = _Ignored | _Term | _Phrase


@dataclass(frozen=True, slots=True)
class _Combination:
    order: int
    rule: str
    terms: tuple[str, ...]
    within: int | None


class PromptRules:
    """A compiled rule file. Immutable; one instance serves any number of threads."""

    def __init__(self, file: RuleFile, *, origin: Path, disabled: Collection[str] = ()) -> None:
        """Compiles `file`, read from `origin`, without the `disabled` categories.

        Raises ConfigurationError for an entry that cannot be read or an unknown category.
        """
        if unknown := sorted(set(disabled) - file.categories.keys()):
            known = ", ".join(file.categories)
            raise ConfigurationError(
                f"disabled: {origin} has no category {', '.join(unknown)}; it has: {known}"
            )
        self._file, self._origin, self._disabled = file, origin, tuple(disabled)
        compiler = _Compiler(file, origin)
        self._names = tuple(file.categories)
        self._descriptions = {name: each.description for name, each in file.categories.items()}
        self.categories = tuple(name for name in self._names if name not in disabled)
        patterns = compiler.patterns(self.categories)
        self._combinations = tuple(compiler.combinations(self.categories))
        self._lexicon = Lexicon(
            part for pattern, _ in patterns for part in pattern if isinstance(part, str)
        )
        self._index = PhraseIndex(patterns)

    @classmethod
    def load(cls, path: Path | None = None, *, disabled: Collection[str] = ()) -> PromptRules:
        """The rules of the YAML file at `path` (None: those carried here), less `disabled` ones.

        Raises ConfigurationError naming file, category and entry.
        """
        origin = path or DEFAULT_RULES
        return cls(load_rule_file(origin), origin=origin, disabled=disabled)

    def described(self) -> dict[str, object]:
        """The arguments that make the same rules again, as JSON has them."""
        return {
            "file": self._file.model_dump(mode="json"),
            "origin": str(self._origin),
            "disabled": list(self._disabled),
        }

    def match(self, text: str) -> RuleMatch | None:
        """The first rule, by order of categories, that refuses `text`; None if it may pass."""
        words = read(text, self._lexicon)
        spans = _without_ignored(self._index.find(words), words)
        hits = [(s.label.order, s.label.rule) for s in spans if isinstance(s.label, _Phrase)]
        terms = _terms_in(spans)
        hits += [(c.order, c.rule) for c in self._combinations if _occurs(c, terms)]
        if not hits:
            return None
        order, rule = min(hits)
        return RuleMatch(category=self._names[order], rule=rule)

    def check(self, text: str, *, param: str) -> None:
        """Raises ContentPolicyViolation (score and threshold 1.0) if a rule refuses `text`.

        The message names the category, and does not repeat the prompt.
        """
        if (found := self.match(text)) is not None:
            raise self.violation(found, param=param)

    def violation(self, found: RuleMatch, *, param: str) -> ContentPolicyViolation:
        """The refusal of the text in `param` by the rule `found`."""
        return ContentPolicyViolation(
            f"{param}: refused by the content policy, category {found.category} "
            f"({self._descriptions[found.category]}); rephrase the prompt without it",
            stage="prompt",
            category=found.category,
            score=1.0,
            threshold=1.0,
            param=param,
        )


class _Compiler:
    """Turns the entries of one rule file into labelled patterns."""

    def __init__(self, file: RuleFile, origin: Path) -> None:
        self._file = file
        self._origin = origin
        self._order = {name: order for order, name in enumerate(file.categories)}
        self._terms: dict[str, list[Pattern]] = {}
        for name, entries in file.terms.items():
            # A list may use the lists above it.
            self._terms[name] = [
                pattern
                for i, entry in enumerate(entries)
                for pattern in self._parse(entry, self._terms, "terms", name, i)
            ]

    def patterns(self, categories: Collection[str]) -> list[tuple[Pattern, _Label]]:
        """All patterns of the ignored phrases, the term lists and the categories' phrases."""
        found: list[tuple[Pattern, _Label]] = []
        for i, entry in enumerate(self._file.ignore):
            found += [(p, _Ignored()) for p in self._parse(entry, self._terms, "ignore", i)]
        for name, patterns in self._terms.items():
            found += [(pattern, _Term(name)) for pattern in patterns]
        for name in categories:
            for i, entry in enumerate(self._file.categories[name].phrases):
                place = ("categories", name, "phrases", i)
                label = _Phrase(self._order[name], entry_name(*place))
                found += [(pattern, label) for pattern in self._parse(entry, self._terms, *place)]
                if len(found) > _MAX_PATTERNS:
                    raise self._error(f"makes more than {_MAX_PATTERNS} phrases", *place)
        return found

    def combinations(self, categories: Collection[str]) -> Iterator[_Combination]:
        for name in categories:
            for i, entry in enumerate(self._file.categories[name].combinations):
                place = ("categories", name, "combinations", i)
                if unknown := [term for term in entry.all_of if term not in self._terms]:
                    known = ", ".join(self._terms) or "none"
                    raise self._error(f"{unknown[0]} is no term list; there are: {known}", *place)
                rule = entry_name(*place)
                yield _Combination(self._order[name], rule, entry.all_of, entry.within)

    def _parse(
        self, entry: str, terms: dict[str, list[Pattern]], *place: str | int
    ) -> list[Pattern]:
        try:
            return parse_phrase(entry, terms)
        except ValueError as error:
            raise self._error(f"{entry!r}: {error}", *place) from error

    def _error(self, problem: str, *place: str | int) -> ConfigurationError:
        return ConfigurationError(f"{self._origin}: {entry_name(*place)}: {problem}")


def _without_ignored(spans: Iterator[Span[_Label]], words: Sequence[Word]) -> list[Span[_Label]]:
    """The spans that do not lie wholly inside innocent phrases.

    A phrase is innocent only in one piece: in "nude, heels" the comma parts the two words.
    """
    found = list(spans)
    innocent: set[int] = set()
    for span in found:
        if not isinstance(span.label, _Ignored):
            continue
        if not any(word.after_break for word in words[span.start + 1 : span.end]):
            innocent.update(range(span.start, span.end))
    return [span for span in found if not innocent.issuperset(range(span.start, span.end))]


class _Found(NamedTuple):
    """An entry of a term list in a prompt, the `index`th of all that was found."""

    index: int
    start: int
    end: int


def _terms_in(spans: Sequence[Span[_Label]]) -> Mapping[str, Sequence[_Found]]:
    """By term list: what of it was found, in order."""
    found: defaultdict[str, list[_Found]] = defaultdict(list)
    for index, span in enumerate(spans):
        if isinstance(span.label, _Term):
            found[span.label.name].append(_Found(index, span.start, span.end))
    return found


def _occurs(rule: _Combination, terms: Mapping[str, Sequence[_Found]]) -> bool:
    """Whether every term list of the rule has a span, all of them close enough together."""
    if any(name not in terms for name in rule.terms) or len(set(rule.terms)) < len(rule.terms):
        return False
    if rule.within is None:
        return True
    last: dict[str, _Found] = {}
    named = ((name, found) for name in rule.terms for found in terms[name])
    for name, found in sorted(named, key=lambda each: each[1].index):
        last[name] = found
        if len(last) < len(rule.terms):
            continue
        extent = max(s.end for s in last.values()) - min(s.start for s in last.values())
        if extent <= rule.within:
            return True
    return False
