from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

HEAVY = {
    "accelerate",
    "boto3",
    "diffusers",
    "onnxruntime",
    "pandas",
    "PIL",
    "scipy",
    "sympy",
    "tokenizers",
    "torch",
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.tensor",
    "transformers",
}
"""What takes long to import, or much memory: a process that loads one of them has to need it."""

_CARRIED = "from pipelines.catalog import find; spec = find('sluice-shapes')"
_OPTIONS = "from deployments.options.stages import *"
STAGES: dict[str, tuple[str, set[str]]] = {
    "TextEncoder": (
        f"{_CARRIED}; {_OPTIONS}; from deployments.stages.text_encoder import TextEncoder;"
        "stage = TextEncoder(spec, TextEncoderOptions())",
        # transformers loads the rest with any of its models.
        {
            "accelerate",
            "boto3",
            "PIL",
            "sympy",
            "tokenizers",
            "torch",
            "torch._dynamo",
            "torch._inductor",
            "torch.distributed.tensor",
            "transformers",
        },
    ),
    "ImageEncoder": (
        f"{_CARRIED}; {_OPTIONS}; from deployments.stages.image_encoder import ImageEncoder;"
        "stage = ImageEncoder(spec, ImageEncoderOptions(), WeightsOptions(),"
        " StorageOptions(directory=Path(sys.argv[1])))",
        {"PIL", "torch"},
    ),
    "Denoiser": (
        f"{_CARRIED}; {_OPTIONS}; from deployments.stages.denoiser import Denoiser;"
        "options = DenoiserOptions(calibration_s=0.01, cost_cache=Path(sys.argv[1]));"
        "stage = Denoiser(spec, options)",
        {"PIL", "torch"},  # previews are files
    ),
    "VaeDecoder": (
        f"{_CARRIED}; {_OPTIONS}; from deployments.stages.vae_decoder import VaeDecoder;"
        "stage = VaeDecoder(spec, VaeDecoderOptions())",
        {"torch"},
    ),
    "SafetyClassifier": (
        f"{_OPTIONS}; from deployments.stages.safety import SafetyClassifier;"
        "stage = SafetyClassifier(SafetyOptions())",
        {"onnxruntime", "PIL"},
    ),
    "Finisher": (
        f"{_OPTIONS}; from deployments.stages.finisher import Finisher;"
        "stage = Finisher(FinisherOptions(), StorageOptions(directory=Path(sys.argv[1])))",
        {"PIL"},
    ),
    "the ingress": ("import serve.ingress", set()),
    "the builder": ("import deployments.application", {"PIL"}),
}
"""For each process, what it runs before its first request, and what of `HEAVY` it may load."""


@pytest.mark.parametrize("process", STAGES)
def test_a_process_loads_only_what_its_stage_uses(process: str, tmp_path: Path) -> None:
    """Imported and, over the carried model, constructed, in an interpreter of its own."""
    script, allowed = STAGES[process]
    begin = "import os, sys; from pathlib import Path"
    end = f"print(sorted({HEAVY} & set(sys.modules)), flush=True); os._exit(0)"
    ran = subprocess.run(
        [sys.executable, "-c", f"{begin}; {script}; {end}", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    loaded = set(ast.literal_eval(ran.stdout.splitlines()[-1]))
    assert loaded <= allowed, f"needlessly: {sorted(loaded - allowed)}"


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
