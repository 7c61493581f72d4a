"""The GPU benchmark, with a tiny model on the CPU; and the figures that it relies on."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel

from benchmarks import gpu
from benchmarks.random_flux import DEV, TINY, random_transformer, step_flops, twin_of
from benchmarks.report import save_json
from pipelines.ragged import PackedFlux


def test_every_group_is_measured_and_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(gpu, "save_json", partial(save_json, folder=tmp_path))
    gpu.main(["--tiny", "--save"])
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("gpu-")
    assert json.loads(path.read_text()) == printed
    assert printed["device"] == "cpu"
    measured = {
        (tuple(point["sides"]), point["way"]): point
        for point in printed["points"]
        if point["failure"] is None
    }
    assert set(measured) == {
        *(
            ((side,), way)
            for side in gpu.SMALL.sides
            for way in (
                "diffusers, eager",
                "diffusers, compiled",
                "packed, eager, sdpa",
                "packed, eager, sdpa, modulation each step",
                "packed, compiled, sdpa",
                "packed, compiled, sdpa, modulation each step",
            )
        ),
        *(
            (sides, way)
            for sides in gpu.SMALL.batches
            for way in ("one by one, compiled, sdpa", "packed, compiled, sdpa")
        ),
    }
    for point in measured.values():
        assert 0 < point["low_ms"] <= point["ms"] <= point["high_ms"]
        assert point["difference"] < 0.05
        assert point["share_of_limit"] is None
    # Back ends that need a GPU are points with their reasons.
    reasons = [point["failure"] for point in printed["points"] if point["failure"]]
    assert len(reasons) == 3
    assert all("runs on CUDA only" in reason for reason in reasons)
    torch._dynamo.reset()


def test_a_step_of_flux_dev_costs_what_its_shape_says() -> None:
    """12.9 GFLOP a token and 0.70 MFLOP a pair of tokens: 74.4 TFLOP for 1024x1024."""
    with torch.device("meta"):
        config = FluxTransformer2DModel(**DEV.config).config
    assert step_flops(config, [4608]) == pytest.approx(74.4e12, rel=0.005)
    assert step_flops(config, [1536]) == pytest.approx(21.5e12, rel=0.005)
    assert step_flops(config, [100, 100]) == 2 * step_flops(config, [100])


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("Radeon", None),
    ],
)
def test_the_peak_is_looked_up_by_name(name: str, tflops: float | None) -> None:
    assert gpu.peak_flops(name) == (None if tflops is None else 1e12 * tflops)


def test_a_twin_shares_the_memory_of_a_packed_transformer() -> None:
    model = random_transformer(TINY, torch.device("cpu"), torch.bfloat16)
    PackedFlux(model)
    twin = twin_of(model)
    ours = dict(model.named_parameters())
    for name, parameter in twin.named_parameters():
        assert parameter.dtype == torch.bfloat16
        assert parameter.data_ptr() == ours[name].data_ptr(), name


@pytest.mark.gpu
def test_on_a_gpu_the_tiny_plan_runs_compiled_by_inductor() -> None:
    plan = gpu.Plan(shape=TINY, sides=(64,), batches=((32, 64),), rounds=3, compiler="inductor")
    device = torch.device("cuda")
    points = [p for group in gpu.measure(plan, device, 1e15, deadline=1e12) for p in group]
    by_way = {point.way: point for point in points}
    for way in ("diffusers, compiled", "packed, eager, sdpa", "packed, compiled, sdpa"):
        assert by_way[way].failure is None
        assert by_way[way].peak_gib
        assert by_way[way].share_of_limit
