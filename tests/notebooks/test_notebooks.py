"""Notebooks run from beginning to end, and are stored as they should be."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

from tests.cluster import wait_until
from tests.notebooks.running import FOLDER, Notebook

ROOT = FOLDER.parent
PATHS = sorted(FOLDER.glob("*.ipynb"))
NEEDS_CLUSTER = {"01_quickstart", "03_trace_review", "05_jobs"}
QUICKER = {"04_scaling": {"SECONDS, SEED = 240, 1": "SECONDS, SEED = 30, 1"}}
"""By notebook, what is run here instead of a line."""


def case(path: Path) -> Any:
    marks = [pytest.mark.cluster] if path.stem in NEEDS_CLUSTER else []
    return pytest.param(path, id=path.stem, marks=marks)


@pytest.fixture
def notebook(request: pytest.FixtureRequest) -> Iterator[Notebook]:
    opened = Notebook(request.param)
    yield opened
    for process in opened.survivors():
        process.kill()


@pytest.mark.parametrize("notebook", [case(path) for path in PATHS], indirect=True)
def test_it_runs_and_leaves_nothing_behind(notebook: Notebook, tmp_path: Path):
    for before, after in QUICKER.get(notebook.path.stem, {}).items():
        notebook.change(before, after)
    notebook.run(tmp_path)
    assert notebook.pictures() >= 3
    assert "Warning" not in notebook.texts()
    wait_until(lambda: not notebook.survivors())


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_it_is_stored_without_outputs(path: Path):
    content = nbformat.read(path, as_version=4)
    nbformat.validate(content)
    code = [cell for cell in content.cells if cell.cell_type == "code"]
    assert code
    assert [cell.source for cell in code if cell.outputs or cell.execution_count is not None] == []
    assert content.metadata.kernelspec.name == "python3"


def test_the_readme_has_a_line_for_each():
    text = (FOLDER / "README.md").read_text("utf-8")
    assert len(PATHS) == 6
    assert set(re.findall(r"\]\((\S+\.ipynb)\)", text)) == {path.name for path in PATHS}


def test_prices_are_those_of_the_cluster_file():
    """The notebook's table has the machines of cluster.yaml, at the prices of its comments."""
    text = (ROOT / "cluster.yaml").read_text("utf-8")
    kinds = yaml.safe_load(text)["available_node_types"]
    assert prices_of_notebook() == {name: price_in_comment(text, name) for name in kinds}


def prices_of_notebook() -> dict[str, float]:
    content = nbformat.read(FOLDER / "04_scaling.ipynb", as_version=4)
    (cell,) = (cell for cell in content.cells if "prices" in cell.metadata.get("tags", []))
    (assignment,) = ast.parse(cell.source).body
    assert isinstance(assignment, ast.Assign)
    return ast.literal_eval(assignment.value)


def price_in_comment(text: str, kind: str) -> float:
    """The first "about $N an hour" in the comment above a kind of machine."""
    block = re.search(rf"((?:^  #.*\n)+)  {kind}:$", text, flags=re.M)
    assert block, f"nothing is said of {kind}"
    words = re.sub(r"\s*\n?  # ", " ", block[1])
    price = re.search(r"about \$(\d+\.\d+) an hour", words)
    assert price, f"no price of {kind} in: {words}"
    return float(price[1])
