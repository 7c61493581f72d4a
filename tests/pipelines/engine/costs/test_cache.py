"""Measured ticks on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.engine.costs.cache import CostCache
from pipelines.engine.costs.surface import Load, Observation

TICKS = (Observation(Load(32, 1024, 1), 0.01), Observation(Load(64, 2048, 2), 0.015))


def test_what_was_saved_is_loaded_under_the_same_key_only(tmp_path: Path) -> None:
    CostCache(tmp_path, {"device": "cpu", "dtype": "float32"}).save(TICKS)
    assert CostCache(tmp_path, {"dtype": "float32", "device": "cpu"}).load() == TICKS
    assert CostCache(tmp_path, {"device": "cpu", "dtype": "bfloat16"}).load() == ()


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"key": {}}', '{"key": {}, "ticks": [[[1], 2]]}', "\x00"]
)
def test_a_damaged_file_is_measured_again(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = CostCache(tmp_path, {})
    cache.save(TICKS)
    (path,) = tmp_path.iterdir()
    path.write_text(content)
    assert cache.load() == ()
    assert str(path) in caplog.text
    cache.save(TICKS)
    assert cache.load() == TICKS


def test_a_folder_that_cannot_be_written_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    CostCache(blocked, {}).save(TICKS)
    assert "cannot be kept" in caplog.text
    assert CostCache(tmp_path / "missing", {}).load() == ()
