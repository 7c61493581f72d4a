from __future__ import annotations

from pathlib import Path

from serve.config import Settings
from serve.configurations import read_configurations
from serve.placement import placements

CONFIGS = Path(__file__).resolve().parents[2] / "serve" / "configs"


def test_flux_dev():
    (found,) = read_configurations(CONFIGS / "flux-dev.yaml")
    assert found.application == "default"
    rows = {row.deployment: row for row in placements(found.settings)}
    assert list(rows) == [
        "Ingress",
        "TextEncoder",
        "Denoiser",
        "VaeDecoder",
        "SafetyClassifier",
        "Finisher",
    ]
    denoiser = rows["Denoiser"]
    assert (denoiser.min_replicas, denoiser.max_replicas, denoiser.num_gpus) == (1, 8, 1.0)
    assert (denoiser.device, denoiser.dtype, denoiser.where) == (
        "cuda",
        "bfloat16",
        "sluice-pool=denoise",
    )
    assert denoiser.weights_bytes == 2 * 11_901_408_320
    assert rows["Finisher"].dtype is None


def test_fixed_replicas_have_equal_bounds():
    rows = placements(Settings.load({"stages.denoiser.num_replicas": 3, "ingress.num_replicas": 2}))
    bounds = {row.deployment: (row.min_replicas, row.max_replicas) for row in rows}
    assert (bounds["Denoiser"], bounds["Ingress"], bounds["Finisher"]) == ((3, 3), (2, 2), (1, 1))
