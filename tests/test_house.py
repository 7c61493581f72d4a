"""The house has no circles: of two folders, or files beside them, only one imports the other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("serve", "deployments", "pipelines")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
}


def imported(path: Path) -> Iterator[str]:
    """The modules of the product that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            while name and name not in MODULES:
                name = name.rpartition(".")[0]
            if name:
                yield name


def room(module: str, house: str) -> str | None:
    """The file or folder directly inside of `house` that a module belongs to."""
    inside = module.removeprefix(f"{house}.")
    return None if inside == module else inside.partition(".")[0]


@pytest.mark.parametrize("house", [*PACKAGES, "pipelines.engine", "pipelines.stages", "serve.api"])
def test_no_two_rooms_import_each_other(house: str) -> None:
    arrows = {
        (room(module, house), room(other, house))
        for module, path in MODULES.items()
        for other in imported(path)
    }
    between = {(one, other) for one, other in arrows if one and other and one != other}
    assert between
    assert {pair for pair in between if pair[::-1] in between} == set()
