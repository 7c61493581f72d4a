"""Calls to stages that belong together: when one fails or the caller leaves, all are cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

import ray.exceptions
import ray.serve
import ray.serve.exceptions
from ray.serve.handle import (
    DeploymentHandle,
    DeploymentResponse,
    DeploymentResponseGenerator,
)
from ray.serve.schema import ReplicaState

from deployments.graph.failures import CALL_ERRORS, ReplicaLost, translate
from deployments.graph.request_log import RequestLog
from deployments.wire.packed import Refusal
from pipelines.errors import Overloaded, SluiceError

_READINESS = RequestLog(request_id="readiness")


class Calls:
    """A scope for calls: leaving it with an exception cancels those that are still under way.

    Serve cancels what a cancelled request has yet to send, but not always what already runs.
    """

    def __init__(self, log: RequestLog) -> None:
        self._log = log
        self._responses: list[DeploymentResponse[Any] | DeploymentResponseGenerator[Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if kind is not None:
            for response in self._responses:
                # Cancelling a call that has failed before it reached a replica raises its error.
                with contextlib.suppress(*CALL_ERRORS):
                    response.cancel()

    def start(self, stage: str, handle: DeploymentHandle, *args: Any, **kwargs: Any) -> Any:
        """Call `handle`: a response, or with its option `stream` a generator of responses.

        Responses of other calls among the arguments are passed on by reference. Raises what
        `result` raises, where Serve runs everything in one process.
        """
        try:
            response: Any = handle.remote(*args, **kwargs)
        except CALL_ERRORS as error:
            raise self._translated(error, stage) from error
        self._responses.append(response)
        return response

    async def result(self, stage: str, handle: DeploymentHandle, *args: Any) -> Any:
        """Call `handle` and wait. Raises ReplicaLost and the errors of `pipelines.errors`."""
        response = self.start(stage, handle, *args)
        try:
            return await response
        except CALL_ERRORS as error:
            raise self._translated(error, stage) from error

    async def next_item(self, stage: str, stream: Any) -> Any:
        """What `stream`, started here, yields next. Raises as `result`, and what a `Refusal` says;
        ReplicaLost at its end.

        A stream may be left once the item that was waited for has come.
        """
        try:
            item = await anext(stream)
        except StopAsyncIteration:
            raise ReplicaLost(stage) from None
        except CALL_ERRORS as error:
            raise self._translated(error, stage) from error
        if isinstance(item, Refusal):
            raise item.error
        return item

    def _translated(self, error: BaseException, stage: str) -> BaseException:
        """Our own cancellation as it is, and anything else as one of our errors."""
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            return error
        return translate(error, stage=stage, log=self._log)


async def all_or_none(*coroutines: Coroutine[Any, Any, Any]) -> list[Any]:
    """All results, in order; the first error cancels the others and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


async def is_ready(stage: str, handle: DeploymentHandle, *, timeout_s: float) -> bool:
    """Whether a replica of the stage answers in time; `handle` calls its method `ready`.

    A stage that is too busy to answer is ready: behind a load balancer, the opposite would take
    every server away at its peak. The controller tells such a stage from one without a replica.
    """
    try:
        with Calls(_READINESS) as calls:
            async with asyncio.timeout(timeout_s):
                return bool(await calls.result(stage, handle))
    except (TimeoutError, Overloaded):
        return await asyncio.to_thread(_has_running_replica, handle)
    except (ReplicaLost, SluiceError):
        return False


def _has_running_replica(handle: DeploymentHandle) -> bool:
    """What Serve's controller knows; blocks for a few milliseconds."""
    if not ray.is_initialized():  # or asking would start a cluster
        return False
    try:
        application = ray.serve.status().applications.get(handle.app_name)
    except (ray.exceptions.RayError, ray.serve.exceptions.RayServeException):
        return False
    deployment = application and application.deployments.get(handle.deployment_name)
    return bool(deployment and deployment.replica_states.get(ReplicaState.RUNNING, 0))
