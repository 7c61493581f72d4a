"""What is asked of a request reaches the replicas that work on it, wherever they are.

Who asks does not know which replicas those are, and works may be on their way from one to another.
So all are told, and told again at growing intervals until the request is done; a replica that has
none of its works does nothing, and being told again changes nothing. Calls that are made meanwhile
say themselves what is asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from contextlib import contextmanager, suppress
from contextvars import Context
from typing import Any

import ray.exceptions
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.broadcast import ask_all_replicas
from deployments.graph.steering.steering import Steering

logger = logging.getLogger("ray.serve")

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_TIMEOUT_S = 10.0


@contextmanager
def relayed(steering: Steering | None, handle: DeploymentHandle[Any], name: str) -> Generator[None]:
    """As long as the body, all replicas of `handle` are told through their method `steer` what is
    asked of what they know as `name`."""
    if steering is None:
        yield
        return
    changed = asyncio.Event()
    with steering.followed_by(changed.set):
        # In a context of its own: Serve would take these calls for parts of the request.
        task = asyncio.get_running_loop().create_task(
            _relay(steering, changed, handle, name), context=Context()
        )
        try:
            yield
        finally:
            task.cancel()


async def _relay(
    steering: Steering, changed: asyncio.Event, handle: DeploymentHandle[Any], name: str
) -> None:
    await changed.wait()
    pause_s = _FIRST_PAUSE_S
    while True:
        if changed.is_set():
            changed.clear()
            pause_s = _FIRST_PAUSE_S
        await _tell(steering, handle, name)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await changed.wait()
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


async def _tell(steering: Steering, handle: DeploymentHandle[Any], name: str) -> None:
    try:
        await ask_all_replicas(handle, "steer", name, steering.controls, timeout_s=_TIMEOUT_S)
    except (TimeoutError, ray.exceptions.RayError, RayServeException) as error:
        logger.warning("what is asked of a request is said again: %s", error)
