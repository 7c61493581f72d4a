"""The YAML file that prompt rules are written in: its shape, and errors that name the entry.

Knows the file, not how rules are matched.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines import operator_yaml
from pipelines.errors import ConfigurationError

DEFAULT_RULES = Path(__file__).with_name("default_rules.yaml")

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Phrases = tuple[Annotated[str, Field(min_length=1, max_length=200)], ...]


class _FileModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Combination(_FileModel):
    """Matches when an entry of each named term list occurs, within `within` words if given."""

    all_of: Annotated[tuple[Name, ...], Field(min_length=2, strict=False)]
    within: Annotated[int, Field(ge=2)] | None = None


class Category(_FileModel):
    """One category: what it is called in messages, and the rules that refuse a prompt."""

    description: Annotated[str, Field(min_length=1)]
    phrases: Annotated[Phrases, Field(strict=False)] = ()
    combinations: Annotated[tuple[Combination, ...], Field(strict=False)] = ()


class RuleFile(_FileModel):
    """A whole rule file.

    `terms` are lists that phrases (as `<name>`) and combinations refer to; `ignore` are innocent
    phrases whose words count for no rule; categories are matched in the order of the file.
    """

    terms: dict[Name, Annotated[Phrases, Field(min_length=1, strict=False)]] = {}
    ignore: Annotated[Phrases, Field(strict=False)] = ()
    categories: Annotated[dict[Name, Category], Field(min_length=1)]


class _UniqueKeyLoader(operator_yaml.BoundedLoader):
    """A safe loader that refuses a key given twice, where YAML would drop the first silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_rule_file(path: Path) -> RuleFile:
    """The validated rule file at `path`.

    Raises ConfigurationError naming the file and, where there is one, the category and the entry.
    """
    try:
        content = operator_yaml.read(path, _UniqueKeyLoader)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot read prompt rules: {error.strerror}") from error
    except operator_yaml.YamlError as error:
        raise ConfigurationError(f"{path}: prompt rules are not valid YAML: {error}") from error
    try:
        return RuleFile.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = entry_name(*first["loc"]) or "the file"
        raise ConfigurationError(f"{path}: {where}: {first['msg']}") from error


def entry_name(*parts: str | int) -> str:
    """A place in the file as one path, for example `categories.hate.phrases[3]`."""
    steps = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return "".join(steps).removeprefix(".")
