from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError, RayTaskError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    RequestCancelledError,
)

from deployments.graph.failures import ReplicaLost, translate
from deployments.graph.request_log import RequestLog
from pipelines.errors import (
    ContentPolicyViolation,
    DeadlineUnreachable,
    DegenerateImage,
    InvalidRequest,
    NotReady,
    Overloaded,
    SluiceError,
    StageFailed,
)

LOG = RequestLog(request_id="req")
DEATH = "The actor died unexpectedly before finishing this task.\n\tclass_name: ServeReplica:app:"


def _task_error(cause: Exception) -> RayTaskError:
    """As a caller meets it: of the cause's class as well."""
    return RayTaskError(
        "method", f"Traceback ...\n{cause!r}", cause, pid=1, ip="0"
    ).as_instanceof_cause()


def _death(deployment: str) -> ActorDiedError:
    error = ActorDiedError()
    error.error_msg = DEATH + deployment + "\n\tactor_id: 1"
    return error


REFUSED = ContentPolicyViolation(
    "refused", stage="image", category="sexual", score=0.9, threshold=0.8, image_index=1
)


@pytest.mark.parametrize(
    "own",
    [
        DegenerateImage("black"),
        InvalidRequest("bad", param="size"),
        DeadlineUnreachable("too late", earliest_s=7.0, retry_after_s=None),
        REFUSED,
    ],
    ids=lambda error: type(error).__name__,
)
def test_our_own_errors_come_out_as_themselves(own: Any) -> None:
    for wrapped in (own, _task_error(own), _task_error(_task_error(own))):
        found = translate(wrapped, stage="Denoiser", log=LOG)
        assert type(found) is type(own)
        assert isinstance(found, SluiceError)
        assert (found.message, found.fields) == (own.message, own.fields)


def _upstream_death() -> RayServeException:
    error = RayServeException("Request to deployment 'VaeDecoder' failed because an upstream actor")
    error.__cause__ = _death("Denoiser")
    return error


@pytest.mark.parametrize(
    ("error", "stage"),
    [
        (_death("Denoiser"), "Denoiser"),
        (_task_error(_death("TextEncoder")), "TextEncoder"),
        (_upstream_death(), "Denoiser"),
        (ActorDiedError(), "VaeDecoder"),
        (ActorUnavailableError("away", b"\0" * 16), "VaeDecoder"),
        (ObjectLostError("0" * 56, b"", ""), "VaeDecoder"),
        (asyncio.CancelledError(), "VaeDecoder"),
        (RequestCancelledError("id"), "VaeDecoder"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value,
)
def test_a_death_is_a_lost_replica_of_the_stage_that_died(error: BaseException, stage: str) -> None:
    found = translate(error, stage="VaeDecoder", log=LOG)
    assert isinstance(found, ReplicaLost)
    assert found.stage == stage


def test_back_pressure_is_overload_and_says_when_to_come_back() -> None:
    found = translate(BackPressureError(3, 2, 429, 7.0), stage="Denoiser", log=LOG)
    assert isinstance(found, Overloaded)
    assert found.retry_after_s == 7.0
    found = translate(_task_error(BackPressureError(3, 2)), stage="Denoiser", log=LOG)
    assert isinstance(found, Overloaded)
    assert found.retry_after_s


def test_a_stage_that_could_not_be_deployed_is_not_ready() -> None:
    error = DeploymentUnavailableError(DeploymentID("Denoiser", "app"))
    assert isinstance(translate(error, stage="Denoiser", log=LOG), NotReady)


def test_anything_else_is_the_stages_failure_and_only_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("ray.serve"), "propagate", True)
    found = translate(
        _task_error(KeyError("/secret/path")), stage="Finisher", log=RequestLog(request_id="req-7")
    )
    assert isinstance(found, StageFailed)
    assert found.stage == "Finisher"
    assert "secret" not in found.message
    assert "secret" in caplog.text
    assert "req-7" in caplog.text
