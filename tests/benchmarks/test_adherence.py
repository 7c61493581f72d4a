"""The summary is printed, saved on request, and has no edits of a model that makes none."""

import json
from pathlib import Path

import pytest

from benchmarks import adherence

DRAWS = {"one_object": 1.0, "two_objects": 0.98, "iou_median_64": 0.95, "n": 5}


def _run(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, float], *options: str
) -> dict[str, object]:
    asked: dict[str, object] = {}

    def summary(model: Path, *, n: int, given: dict[str, int | float]) -> dict[str, float]:
        asked.update(model=model, n=n, given=given)
        return values

    monkeypatch.setattr(adherence, "summary", summary)
    monkeypatch.setattr("sys.argv", ["adherence", "--n", "5", *options])
    adherence.main()
    return asked


def test_the_last_line_is_the_summary(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = _run(monkeypatch, DRAWS, "--steps", "4")
    assert (asked["n"], asked["given"]) == (5, {"steps": 4, "batch": 32})
    out = capsys.readouterr().out
    assert json.loads(out.splitlines()[-1]) == DRAWS
    assert "overlap with the true outline" in out
    assert "edits" not in out
    _run(monkeypatch, DRAWS | {"edits": 0.9, "edit_chain5": 0.7})
    assert "five edits in a row" in capsys.readouterr().out


def test_it_is_saved_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    saved: list[tuple[str, object]] = []

    def save(name: str, values: object, *, device: str) -> Path:
        saved.append((name, values))
        return tmp_path

    monkeypatch.setattr(adherence, "save_json", save)
    _run(monkeypatch, DRAWS)
    assert saved == []
    _run(monkeypatch, DRAWS, "--save")
    assert saved == [("adherence", DRAWS)]
    with pytest.raises(SystemExit):
        _run(monkeypatch, DRAWS, "--save", "--size", "64x64")
    assert "leave --size out" in capsys.readouterr().err
