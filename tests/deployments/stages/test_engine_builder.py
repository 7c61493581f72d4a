"""From a stage and its options to an engine that knows its costs and bounds."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from deployments.options.stages import GPU_MEMORY_SHARE, DenoiserOptions
from deployments.stages.engine_builder import build_engine
from pipelines.contracts import Conditioning, LatentJob, SamplingParams
from pipelines.engine.costs import calibrate
from pipelines.errors import InvalidRequest
from pipelines.flux1.prompt_tensors import PromptTensors
from pipelines.stages.denoiser import DenoiserStage
from tests.pretend_cuda import pretend_cuda
from tests.pretend_cuda.runtime import MEMORY_BYTES
from tests.specs import tiny_spec


def conditioning() -> Conditioning:
    return PromptTensors(torch.zeros(8, 40), torch.zeros(24)).conditioning(num_tokens=3)


def job(side: int) -> LatentJob:
    return LatentJob(
        work_id=f"w{side}",
        group="g",
        sampling=SamplingParams(
            height=side, width=side, num_inference_steps=2, guidance_scale=3.5, seed=1
        ),
    )


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What is logged, at the level of replicas."""
    caplog.set_level(logging.INFO, logger="ray.serve")
    logging.getLogger("ray.serve").addHandler(caplog.handler)
    yield caplog
    logging.getLogger("ray.serve").removeHandler(caplog.handler)


@pytest.fixture
def looks_cost_20_ms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrations go by a clock that goes on by 20 ms with each look at it, and not between."""
    clock = functools.partial(next, itertools.count(step=0.02))
    measure = functools.partial(calibrate.measure, clock=clock)
    monkeypatch.setattr(calibrate, "measure", measure)


@pytest.mark.usefixtures("looks_cost_20_ms")
def test_costs_are_measured_once_and_kept(
    dev_like: Path, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    stage = DenoiserStage.load(str(dev_like))
    # A mix takes seven looks: there is time for eight, where six are enough to be kept.
    options = DenoiserOptions(cost_cache=tmp_path / "cost", calibration_s=8 * 7 * 0.02)
    build_engine(stage, tiny_spec(dev_like), options)
    (kept,) = (tmp_path / "cost").iterdir()
    before = kept.read_bytes()
    assert "measured 8 ticks" in log.text
    log.clear()
    build_engine(stage, tiny_spec(dev_like), options)
    assert "measured" not in log.text
    assert "a tick costs" in log.text
    assert kept.read_bytes() == before


@pytest.mark.usefixtures("looks_cost_20_ms")
def test_costs_that_were_measured_in_too_little_time_are_not_kept(
    dev_like: Path, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    stage = DenoiserStage.load(str(dev_like))
    options = DenoiserOptions(cost_cache=tmp_path / "cost", calibration_s=3 * 7 * 0.02)
    for _ in range(2):
        log.clear()
        build_engine(stage, tiny_spec(dev_like), options)
        assert "measured 3 ticks" in log.text
    assert not list((tmp_path / "cost").glob("*"))


@pytest.mark.usefixtures("looks_cost_20_ms")
def test_costs_that_a_busy_machine_has_spoilt_are_not_kept(
    dev_like: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = calibrate.measure

    def spoilt(*args: Any, **options: Any) -> list[Any]:
        points = measure(*args, **options)
        return [(lengths, (0.02, 0.5)[at % 2]) for at, (lengths, _) in enumerate(points)]

    monkeypatch.setattr(calibrate, "measure", spoilt)
    stage = DenoiserStage.load(str(dev_like))
    options = DenoiserOptions(cost_cache=tmp_path / "cost", calibration_s=8 * 7 * 0.02)
    build_engine(stage, tiny_spec(dev_like), options)
    assert not list((tmp_path / "cost").glob("*"))


@pytest.mark.parametrize(
    "bound",
    [{"max_tokens_per_tick": 40}, {"memory_mib": 1}],
    ids=["tokens", "memory"],
)
def test_an_image_that_can_never_fit_is_refused_by_its_size(
    dev_like: Path, tmp_path: Path, bound: dict[str, int]
) -> None:
    stage = DenoiserStage.load(str(dev_like))
    options = DenoiserOptions.model_validate(
        {"cost_cache": tmp_path, "calibration_s": 0.1, **bound}
    )
    engine = build_engine(stage, tiny_spec(dev_like), options)
    engine.start()
    try:
        assert engine.submit(job(64), conditioning()).result(60).steps_run == 2
        with pytest.raises(InvalidRequest, match=r"1024x1024 .* smaller size") as refused:
            engine.submit(job(1024), conditioning())
        assert refused.value.param == "size"
    finally:
        engine.stop()


def test_on_a_gpu_memory_is_the_devices_and_latents_are_the_cpus(
    dev_like: Path, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    options = DenoiserOptions(num_gpus=1, cost_cache=tmp_path, calibration_s=0.5)
    expected = DenoiserStage.load(str(dev_like))
    alone = expected.admit(job(64), conditioning(), None)
    while not alone.is_done:
        expected.tick([alone])
    with pretend_cuda():
        stage = DenoiserStage.load(str(dev_like), device=options.resolved_device)
        engine = build_engine(stage, tiny_spec(dev_like), options)
        engine.start()
        try:
            latents = engine.submit(job(64), conditioning()).result(60)
        finally:
            engine.stop()
    half_mib = int(MEMORY_BYTES * GPU_MEMORY_SHARE / 2) // 2**20
    assert f"and {half_mib} MiB of trajectories" in log.text
    assert torch.equal(latents.packed, expected.finish(alone).packed)
