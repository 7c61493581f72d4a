from __future__ import annotations

import asyncio
import logging

import pytest

from deployments.lifecycle.boundary import FAILING_FOR_S, MAX_FAILURES, Boundary, starting
from deployments.options.stages import DenoiserOptions
from pipelines.errors import CheckpointError, DegenerateImage, StageFailed


@pytest.fixture(autouse=True)
def _logs_reach_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("ray.serve"), "propagate", True)


def _fail(boundary: Boundary, error: BaseException) -> None:
    with boundary.call():
        raise error


def test_the_cause_of_a_failed_start_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(CheckpointError), starting("Denoiser", DenoiserOptions()):
        raise CheckpointError("no weights in folder x")
    assert "Denoiser could not start" in caplog.text
    assert "no weights in folder x" in caplog.text


def test_own_errors_and_cancellation_pass() -> None:
    boundary = Boundary("Denoiser")
    for error in (DegenerateImage("black"), asyncio.CancelledError()):
        for _ in range(MAX_FAILURES + 1):
            with pytest.raises(type(error)):
                _fail(boundary, error)
    boundary.check_health()


def test_other_errors_leave_as_stage_failed_without_details(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(StageFailed) as caught:
        _fail(Boundary("Denoiser"), RuntimeError("CUDA error: device-side assert"))
    assert caught.value.stage == "Denoiser"
    assert "CUDA" not in caught.value.message
    assert "device-side assert" in caplog.text


def test_failures_in_a_row_make_it_sick_and_a_success_heals_it() -> None:
    now = 0.0
    boundary = Boundary("Denoiser", clock=lambda: now)

    def fail(times: int) -> None:
        nonlocal now
        for _ in range(times):
            now += FAILING_FOR_S
            with pytest.raises(StageFailed):
                _fail(boundary, RuntimeError())

    fail(MAX_FAILURES - 1)
    boundary.check_health()
    with boundary.call():
        pass
    fail(MAX_FAILURES - 1)
    boundary.check_health()
    fail(1)
    with pytest.raises(StageFailed):
        boundary.check_health()


def test_one_failed_batch_is_no_reason_to_replace_a_replica() -> None:
    boundary = Boundary("VaeDecoder", clock=lambda: 7.0)
    for _ in range(MAX_FAILURES * 3):
        with pytest.raises(StageFailed):
            _fail(boundary, RuntimeError("out of memory"))
    boundary.check_health()
