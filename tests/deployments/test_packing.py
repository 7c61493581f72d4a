"""Stages that share GPUs leave whole ones for a replica that wants several: on real scheduling."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.cluster
@pytest.mark.long
def test_a_replica_of_two_gpus_is_placed_only_where_serve_packs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.deployments.packing_driver"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert lines == [
        {"packs": False, "nodes": 2, "both_gpus": False},
        {"packs": True, "nodes": 1, "both_gpus": True},
    ]
