"""Rules of the repository that no linter knows."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parent.parent
PACKAGES = ("serve", "deployments", "pipelines")


def product_files() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def annotated_tree(readme: Path) -> str | None:
    """The first plain block of a README that begins with a path and what it is, if there is one."""
    block: list[str] | None = None
    for line in readme.read_text("utf-8").splitlines():
        if not line.startswith("```"):
            if block is not None:
                block.append(line)
        elif block is None:
            block, is_plain = [], line == "```"
        else:
            text, block = "\n".join(block), None
            if is_plain and TREE_LINE.match(text):
                return text
    return None


TREE_LINE = re.compile(r"^( *)([\w.-]+/|[\w.-]+\.\w+)(?= )", re.MULTILINE)


def paths_of(tree: str) -> Iterator[Path]:
    """Each path of an annotated tree; what is indented is inside of the folder above it."""
    inside: list[tuple[int, Path]] = []
    for match in TREE_LINE.finditer(tree):
        indent, name = len(match[1]), match[2]
        if indent > 8:  # the annotation of the line above, continued
            continue
        while inside and inside[-1][0] >= indent:
            inside.pop()
        path = (inside[-1][1] if inside else Path()) / name
        yield path
        if name.endswith("/"):
            inside.append((indent, path))


def test_files_stay_small_enough_to_read() -> None:
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in product_files()}
    assert len(lengths) > 30
    assert {path.name: n for path, n in lengths.items() if n > 340} == {}


LOGGER = re.compile(r"^(\w+) = logging\.getLogger\(", re.MULTILINE)


def test_the_logger_of_a_module_is_called_logger() -> None:
    names = {name for path in product_files() for name in LOGGER.findall(path.read_text("utf-8"))}
    assert names == {"logger"}


REQUESTS = re.compile(
    r"^\s*(?:from starlette\.requests import|import starlette\.requests"
    r"|from fastapi import [^\n]*\bRequest\b)",
    re.MULTILINE,
)


def test_only_routes_and_what_stands_before_them_know_a_request() -> None:
    """What import-linter cannot say, as it does not look into packages of others."""
    knowing = {
        path.relative_to(ROOT).parts[:2]
        for path in product_files()
        if REQUESTS.search(path.read_text("utf-8"))
    }
    assert ("serve", "api") in knowing
    assert knowing <= {("serve", "api"), ("serve", "middleware"), ("serve", "http.py")}


def test_every_module_says_what_it_knows() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in product_files()
        if (text := path.read_text("utf-8").strip()) and not text.startswith('"""')
    ]
    assert silent == []


@pytest.mark.parametrize(
    "folder",
    [
        "",
        *PACKAGES,
        "benchmarks",
        "notebooks",
        "pipelines/embedded",
        "pipelines/moderation",
        "pipelines/engine",
        "pipelines/parallel",
    ],
)
def test_packages_have_a_readme(folder: str) -> None:
    assert len((ROOT / folder / "README.md").read_text("utf-8")) > 300


def test_every_python_file_of_the_readme_exists() -> None:
    """The reading list must not drift from the code."""
    text = (ROOT / "README.md").read_text("utf-8")
    named = {word.strip("`,.()[]") for word in text.split() if "/" in word}
    files = {
        word for word in named if word.endswith((".py", ".yaml")) and not word.startswith("http")
    }
    assert files
    assert {word for word in files if not (ROOT / word).exists()} == set()


TREES = [
    path.relative_to(ROOT)
    for package in ("", *PACKAGES)
    for path in sorted((ROOT / package).glob("README.md" if not package else "**/README.md"))
    if annotated_tree(path) is not None
]


def test_the_packages_have_annotated_trees() -> None:
    assert {Path(), *map(Path, PACKAGES)} <= {path.parent for path in TREES}


@pytest.mark.parametrize("readme", TREES, ids=str)
def test_an_annotated_tree_names_what_is_there(readme: Path) -> None:
    """What it names exists, and no folder with code is left out; nor, in a package's, a file that
    stands beside it: those of folders below have the folder's line."""
    folder = (ROOT / readme).parent
    tree = annotated_tree(ROOT / readme)
    assert tree is not None
    named = list(paths_of(tree))
    assert [str(path) for path in named if not (folder / path).exists()] == []
    if readme.parent == Path():
        return
    beside = {path.relative_to(folder) for path in folder.iterdir() if path.is_file()}
    assert beside - set(named) <= {Path("README.md"), Path("__init__.py")}
    code = {path.parent.relative_to(folder) for path in folder.rglob("*.py")} - {Path()}
    told_elsewhere = {
        path.parent.relative_to(folder)
        for path in folder.rglob("README.md")
        if path.parent != folder
    }
    left_out = {
        path
        for path in code - set(named)
        if not any(parent in told_elsewhere for parent in path.parents)
    }
    assert left_out == set()


def test_a_readme_names_the_modules_beside_it() -> None:
    """With a tree or without one."""
    readmes = [path for package in PACKAGES for path in (ROOT / package).rglob("README.md")]
    assert len(readmes) > len(PACKAGES)
    unnamed = {
        str(module.relative_to(ROOT))
        for readme in readmes
        for module in readme.parent.glob("*.py")
        if module.name != "__init__.py" and module.name not in readme.read_text("utf-8")
    }
    assert unnamed == set()


@pytest.mark.parametrize(
    "readme",
    [
        Path("README.md"),
        *(
            path.relative_to(ROOT)
            for package in PACKAGES
            for path in sorted((ROOT / package).rglob("README.md"))
        ),
    ],
    ids=str,
)
def test_what_a_colon_announces_follows_it(readme: Path) -> None:
    """A heading does not: then what was announced has been moved elsewhere."""
    text = (ROOT / readme).read_text("utf-8")
    assert re.findall(r"^.*:\n+#+ .*$", text, re.MULTILINE) == []


def test_the_wheel_carries_model_rules_and_configurations(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "pipelines/embedded/sluice-shapes/model_index.json",
        "pipelines/embedded/sluice-shapes/transformer/diffusion_pytorch_model.safetensors",
        "pipelines/moderation/default_rules.yaml",
        "serve/configs/embedded.yaml",
        "serve/icon.svg",
        "serve/jobs/store/redis/save.lua",
        "serve/jobs/store/sqlite/schema.sql",
        "serve/configs/flux-dev.yaml",
        "serve/page/scripts/main.js",
        "serve/page/templates/page.html",
        "serve/page/texts.json",
        "serve/tracing/views/templates/trace.html",
        "serve/tracing/views/templates/page.css",
        "serve/monitoring/grafana.json",
        "serve/monitoring/alerts.yaml",
    ):
        assert needed in names, needed
    assert not any(name.startswith(("tests/", "benchmarks/", ".venv")) for name in names)
    assert not any(name.startswith("pipelines/embedded/training/checkpoints") for name in names)
    assert wheel.stat().st_size < 16 * 2**20


def test_properties_are_the_same_for_everybody_and_searched_at_random_on_request() -> None:
    """A test that settles its seed itself would stay out of the random search."""
    fixed, random = settings.get_profile("fixed"), settings.get_profile("random")
    assert fixed.derandomize
    assert fixed.database is None
    assert not random.derandomize
    assert random.max_examples > fixed.max_examples
    assert fixed.deadline is random.deadline is None
    seeded = re.compile(r"settings\([^)]*\b(derandomize|deadline)=|@seed\(")
    own = [path for path in (ROOT / "tests").rglob("test_*.py") if seeded.search(path.read_text())]
    assert own == []
    assert "-m hypothesis --hypothesis-profile=random" in (ROOT / "Makefile").read_text("utf-8")


OF_FLUX1 = ("pipelines/flux1", "pipelines/parallel", "pipelines/embedded/training")
"""Where FLUX.1's modules may be named."""


def test_no_other_code_names_the_modules_of_flux1() -> None:
    """Its classes, and its modules by their import paths; `pipelines.families` finds it by name."""
    classes = re.compile(r"^class (\w+)", re.MULTILINE)
    named = {
        name
        for path in (ROOT / "pipelines/flux1").glob("*.py")
        for name in classes.findall(path.read_text("utf-8"))
    }
    assert {"PackedFlux", "FluxModel", "FluxTransformer", "FluxVae", "FluxText"} <= named
    forbidden = re.compile(rf"\b({'|'.join(sorted(named))}|pipelines[./]flux1)\b")
    found = {
        f"{path}: {match[0]}"
        for path in (file.relative_to(ROOT) for file in product_files())
        if not str(path).startswith(OF_FLUX1)
        for match in forbidden.finditer((ROOT / path).read_text("utf-8"))
    }
    assert found == {"pipelines/families.py: pipelines.flux1"}
