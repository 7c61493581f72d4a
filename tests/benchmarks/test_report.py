"""Where a benchmark's values are written."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path

import pytest
import torch

from benchmarks.report import device_name, save_json


def test_values_are_saved_under_name_date_and_device(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    before = date.today()
    path = save_json("slo", {"1.0": {"met": 0.9}}, device="cpu-2-threads", folder=folder)
    assert path.parent == folder
    assert path.name in {f"slo-{day}-cpu-2-threads.json" for day in (before, date.today())}
    assert json.loads(path.read_text()) == {"1.0": {"met": 0.9}}


def test_the_device_is_named_for_a_file_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.fullmatch(r"[a-z0-9-]+", device_name())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    assert device_name() == "nvidia-h100-80gb-hbm3"
