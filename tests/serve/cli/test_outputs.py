from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.errors import InvalidRequest
from serve.cli.outputs import OutputFiles


def planned(
    output: Path | None,
    output_format: str | None = None,
    *,
    count: int = 1,
    overwrite: bool = False,
) -> OutputFiles:
    return OutputFiles.plan(
        output, output_format, prompt="A red circle!", seed=7, count=count, overwrite=overwrite
    )


def test_names_say_prompt_and_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert planned(None).paths == (Path("a-red-circle-7.png"),)
    assert planned(tmp_path, "webp").paths == (tmp_path / "a-red-circle-7.webp",)
    assert planned(tmp_path, count=2).paths == (
        tmp_path / "a-red-circle-7.png",
        tmp_path / "a-red-circle-8.png",
    )


def test_a_named_file_decides_the_format(tmp_path: Path):
    made = planned(tmp_path / "x.JPG")
    assert (made.paths, made.output_format) == ((tmp_path / "x.JPG",), "jpeg")
    several = planned(tmp_path / "x.png", count=2)
    assert several.paths == (tmp_path / "x-7.png", tmp_path / "x-8.png")


def test_contradictions(tmp_path: Path):
    with pytest.raises(InvalidRequest, match="format: webp contradicts"):
        planned(tmp_path / "x.png", "webp")
    with pytest.raises(InvalidRequest, match=r"must end in one of \.png"):
        planned(tmp_path / "x.gif")
    with pytest.raises(InvalidRequest, match="must end in"):
        planned(tmp_path / "missing-folder")


def test_nothing_is_replaced_unasked(tmp_path: Path):
    (tmp_path / "x-8.png").write_bytes(b"")
    with pytest.raises(InvalidRequest, match=r"x-8\.png exists; .* --overwrite"):
        planned(tmp_path / "x.png", count=2)
    assert planned(tmp_path / "x.png", count=2, overwrite=True).paths[1] == tmp_path / "x-8.png"


def test_a_prompt_without_letters():
    made = OutputFiles.plan(None, None, prompt="日本", seed=1, count=1, overwrite=False)
    assert made.paths == (Path("image-1.png"),)
