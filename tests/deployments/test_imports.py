from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("module", ["deployments.graph.graph", "deployments.application"])
def test_neither_ingress_nor_driver_loads_torch(module: str) -> None:
    heavy = "('torch', 'diffusers', 'transformers', 'boto3', 'onnxruntime')"
    script = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"


def test_nothing_hides_our_package_serve_behind_rays() -> None:
    guilty = [
        str(path.relative_to(ROOT))
        for folder in ("pipelines", "deployments", "serve", "benchmarks", "tests")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == "ray"
        if any(alias.name == "serve" for alias in node.names)
    ]
    assert guilty == []
