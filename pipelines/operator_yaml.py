"""YAML as operators write it, read within bounds.

`yaml.safe_load` runs no code, and still takes gigabytes for ten lines of nested aliases, the
process's stack for a thousand brackets, and dies with an error of its own on a number of 5,000
digits or a date in month 13. Here all of these are a `YamlError` of one short line. Knows nothing
of what the file is for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import yaml

MAX_CHARS = 4 * 2**20
MAX_VALUES = 200_000
"""Keys, values and lists of one text, what an alias stands for counted as often as it is used."""
MAX_DEPTH = 50
MAX_DIGITS = 40
"""Of one number: no setting needs more, and Python refuses to print those of over 4,300."""
_MAX_MESSAGE = 300
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class YamlError(ValueError):
    """What is wrong with a text, and where, in one line."""


class BoundedLoader(yaml.SafeLoader):
    """A safe loader that refuses what would grow; use it through `parse`."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark, is_alias = self.peek_event().start_mark, self.check_event(yaml.AliasEvent)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _at(mark, f"is nested more than {MAX_DEPTH} levels deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None and not is_alias:
            self._measure(node, mark)
        return node

    def _measure(self, node: yaml.Node, mark: yaml.Mark) -> None:
        """Count what `node` stands for; its parts, composed before it, have been counted."""
        size = 1
        if isinstance(node, yaml.MappingNode):
            pairs = cast("list[tuple[yaml.Node, yaml.Node]]", node.value)
            size += sum(self._size(part, mark) for pair in pairs for part in pair)
        elif isinstance(node, yaml.SequenceNode):
            size += sum(self._size(part, mark) for part in cast("list[yaml.Node]", node.value))
        elif node.tag in _NUMBERS and len(str(node.value)) > MAX_DIGITS:
            raise _at(mark, f"is a number of more than {MAX_DIGITS} digits")
        if size > MAX_VALUES:
            raise _at(mark, f"holds more than {MAX_VALUES} values, its aliases written out")
        self._sizes[id(node)] = size

    def _size(self, part: yaml.Node, mark: yaml.Mark) -> int:
        # One that has no size yet is still being composed.
        if id(part) not in self._sizes:
            raise _at(mark, "holds itself, by an alias")
        return self._sizes[id(part)]


def parse(text: str, loader: type[BoundedLoader] = BoundedLoader) -> Any:
    """What the one document of `text` holds; None if it is empty. Raises YamlError."""
    if len(text) > MAX_CHARS:
        raise YamlError(f"has more than {MAX_CHARS} characters")
    try:
        return loader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        where = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "cannot be read"
        raise _at(where, problem) if where is not None else YamlError(_short(problem)) from error
    except yaml.YAMLError as error:  # characters that no YAML may have
        raise YamlError(_short(str(error))) from error
    except YamlError:
        raise
    except (ValueError, OverflowError, RecursionError) as error:  # such as a date in month 13
        raise YamlError(_short(str(error))) from error


def read(path: Path, loader: type[BoundedLoader] = BoundedLoader) -> Any:
    """What the file at `path` holds, as `parse`. Raises OSError, YamlError."""
    with path.open(encoding="utf-8") as file:
        try:
            text = file.read(MAX_CHARS + 1)
        except UnicodeDecodeError as error:
            raise YamlError(_short(str(error))) from error
    return parse(text, loader)


def _at(mark: yaml.Mark, problem: str) -> YamlError:
    return YamlError(f"line {mark.line + 1}, column {mark.column + 1}: {_short(problem)}")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_MESSAGE else f"{line[:_MAX_MESSAGE]}…"
