"""What Ray raises for a call, turned into our own errors. Imports no torch.

Ray wraps an error of a stage as a `RayTaskError` that also has the error's class, sometimes twice;
a replica that dies shows as one of several errors, depending on who was waiting for what.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import ray.exceptions
import ray.serve.exceptions

from deployments.graph.request_log import RequestLog
from pipelines.errors import NotReady, Overloaded, SluiceError, StageFailed

CALL_ERRORS = (
    SluiceError,
    ray.exceptions.RayError,
    ray.serve.exceptions.RayServeException,
    asyncio.CancelledError,
)
"""Everything that awaiting a stage can raise."""

_LOST = (
    ray.exceptions.RayActorError,
    ray.exceptions.ActorPlacementGroupRemoved,
    ray.exceptions.AsyncioActorExit,
    ray.exceptions.LocalRayletDiedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.TaskCancelledError,
    ray.exceptions.TaskPlacementGroupRemoved,
    ray.exceptions.WorkerCrashedError,
    ray.serve.exceptions.ReplicaUnavailableError,
    asyncio.CancelledError,
)
"""A process, a node or its objects are gone: the same call can succeed elsewhere. A cancellation
that nobody here asked for comes from a replica that is going away."""

_DEPLOYMENT = re.compile(r"ServeReplica:[^:\s]*:(\w+)")
_DEFAULT_RETRY_AFTER_S = 1.0


class ReplicaLost(Exception):
    """A replica of `stage` was lost under a call, which may be repeated. Never leaves the graph."""

    def __init__(self, stage: str) -> None:
        self.span_error = f"a replica of {stage} was lost"
        super().__init__(self.span_error)
        self.stage = stage


def translate(error: BaseException, *, stage: str, log: RequestLog) -> SluiceError | ReplicaLost:
    """Our own error for what a call to `stage` raised; what clients must not see goes to `log`.

    A lost replica may be of a stage before `stage`, whose result was passed on by reference: the
    one that Ray names is blamed.
    """
    for link in _links(error):
        match link:
            case ray.exceptions.RayTaskError():
                continue
            case SluiceError():
                return link
            case ray.serve.exceptions.BackPressureError():
                return Overloaded(
                    f"too many requests wait for {stage}",
                    retry_after_s=link.retry_after_s or _DEFAULT_RETRY_AFTER_S,
                )
            case ray.serve.exceptions.DeploymentUnavailableError():
                return NotReady(f"{stage} could not be deployed")
            case _ if isinstance(link, _LOST):
                named = _DEPLOYMENT.search(str(link))
                return ReplicaLost(named.group(1) if named else stage)
    log.error("stage_failed", f"{stage} failed unexpectedly", error=error, stage=str(stage))
    return StageFailed(f"{stage} failed on this request", stage=stage)


def _links(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and what it wraps, outermost first."""
    seen: set[int] = set()
    while isinstance(error, BaseException) and id(error) not in seen:
        seen.add(id(error))
        yield error
        is_task_error = isinstance(error, ray.exceptions.RayTaskError)
        error = getattr(error, "cause", None) if is_task_error else error.__cause__
