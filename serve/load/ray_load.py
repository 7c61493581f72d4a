"""What Ray Serve tells of this application's replicas, and its denoisers of their work."""

# pyright: reportUnknownMemberType=false
# Ray's functions are untyped.

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from enum import Enum
from typing import Any

import ray.serve
from ray.exceptions import RayError
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.broadcast import ask_all_replicas
from deployments.replica_load import ReplicaLoad
from serve.load.load_reader import ClusterLoad
from serve.load.server_load import DeploymentLoad

logger = logging.getLogger("ray.serve")

_ANSWER_S = 5.0
"""For all that are asked."""


class RayLoad:
    """Of the application that this replica belongs to; `denoiser` is the deployment that denoises,
    whose replicas have a method `load`."""

    def __init__(self, denoiser: DeploymentHandle[Any]) -> None:
        self._denoiser = denoiser
        self._asking: asyncio.Task[Sequence[DeploymentLoad] | None] | None = None

    async def __call__(self) -> ClusterLoad:
        """What can be had within a few seconds."""
        deployments, denoisers = await asyncio.gather(self._deployments(), self._loads())
        return ClusterLoad(deployments=deployments, denoisers=denoisers)

    async def _deployments(self) -> Sequence[DeploymentLoad] | None:
        # The thread of a controller that is down goes on waiting: one of them is enough.
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(asyncio.to_thread(_deployments))
        done, _ = await asyncio.wait([self._asking], timeout=_ANSWER_S)
        return self._asking.result() if done else None

    async def _loads(self) -> Sequence[ReplicaLoad] | None:
        answers = await ask_replicas(self._denoiser, "load")
        loads = [answer for answer in answers if isinstance(answer, ReplicaLoad)]
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        if not loads and all(isinstance(error, DeploymentUnavailableError) for error in errors):
            return []  # it sleeps
        for error in errors:
            logger.warning("a denoiser does not tell of its load: %s", error)
        return loads or None


async def ask_replicas(handle: DeploymentHandle[Any], method: str, *arguments: Any) -> list[Any]:
    """What each replica of a deployment answers, or the error that it does not."""
    try:
        return await ask_all_replicas(handle, method, *arguments, timeout_s=_ANSWER_S)
    except (TimeoutError, RayError, RayServeException) as error:
        return [error]


def _deployments() -> Sequence[DeploymentLoad] | None:
    """Blocks while the controller answers."""
    application = ray.serve.get_replica_context().app_name
    try:
        status = ray.serve.status().applications.get(application)
    except (RayError, RayServeException) as error:
        logger.warning("Serve does not tell of its replicas: %s", error)
        return None
    if status is None:
        return None
    return [
        DeploymentLoad(
            name=name,
            status=_word(deployment.status),
            replicas={_word(state): count for state, count in deployment.replica_states.items()},
        )
        for name, deployment in status.deployments.items()
    ]


def _word(value: str) -> str:
    """A member of one of Serve's enumerations, which it also gives as plain text."""
    return str(value.value) if isinstance(value, Enum) else value
