"""Calls to stages that belong together: when one fails or the caller leaves, all are cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

from ray.serve.handle import DeploymentHandle, DeploymentResponse

from deployments.failures import CALL_ERRORS, ReplicaLost, translate
from deployments.names import StageName
from pipelines.errors import SluiceError


class Calls:
    """A scope for calls: leaving it with an exception cancels those that are still under way.

    Serve cancels what a cancelled request has yet to send, but not always what already runs.
    """

    def __init__(self) -> None:
        self._responses: list[DeploymentResponse[Any]] = []

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
                response.cancel()

    def start(
        self, stage: StageName, handle: DeploymentHandle, *args: Any
    ) -> DeploymentResponse[Any]:
        """Call `handle`; responses of other calls among `args` are passed on by reference.

        Raises what `result` raises, where Serve runs everything in one process.
        """
        try:
            response = handle.remote(*args)
        except CALL_ERRORS as error:
            raise _own_or(error, stage) from error
        assert isinstance(response, DeploymentResponse)
        self._responses.append(response)
        return response

    async def result(self, stage: StageName, handle: DeploymentHandle, *args: Any) -> Any:
        """Call `handle` and wait. Raises ReplicaLost and the errors of `pipelines.errors`."""
        response = self.start(stage, handle, *args)
        try:
            return await response
        except CALL_ERRORS as error:
            raise _own_or(error, stage) from error


async def all_or_none(*coroutines: Coroutine[Any, Any, Any]) -> list[Any]:
    """All results, in order; the first error cancels the others and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


async def is_ready(stage: StageName, handle: DeploymentHandle, *, timeout_s: float) -> bool:
    """Whether a replica of the stage answers in time; `handle` calls its method `ready`."""
    try:
        with Calls() as calls:
            async with asyncio.timeout(timeout_s):
                return bool(await calls.result(stage, handle))
    except (TimeoutError, ReplicaLost, SluiceError):
        return False


def _own_or(error: BaseException, stage: StageName) -> BaseException:
    """Our own cancellation as it is, and anything else translated."""
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
        return error
    return translate(error, stage=stage)
