"""Waking: which stages of an application sleep, and a first request that wakes all of them at once.

Left to themselves, sleeping stages would wake one after the other, each when the one before has
answered: as many cold starts in a row as there are stages. So each is asked whether it is ready,
which is what makes Serve start it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping
from contextvars import Context
from typing import NamedTuple

from ray.serve.handle import DeploymentHandle

from deployments.graph.calls import Calls
from deployments.graph.failures import ReplicaLost
from deployments.graph.request_log import RequestLog
from deployments.metrics import declared as metrics
from deployments.routing.pools import Pool, pool_of
from pipelines.errors import SluiceError

logger = logging.getLogger("ray.serve")

_WAKING = RequestLog(request_id="waking")


class ColdPool(NamedTuple):
    """A stage that may sleep: its pool, a handle to `ready`, and its configured start-up."""

    pool: Pool
    ready: DeploymentHandle
    start_up_s: float


class ColdPools:
    """The stages of one application that may sleep. For one event loop.

    `start_up_s` has an item for each of these, `ready` a handle for these at least. Times are those
    of `time.perf_counter`, as of the routers.
    """

    def __init__(
        self, ready: Mapping[str, DeploymentHandle], start_up_s: Mapping[str, float]
    ) -> None:
        self._cold_pools = {
            stage: ColdPool(
                pool_of(ready[stage].app_name, ready[stage].deployment_name), ready[stage], seconds
            )
            for stage, seconds in start_up_s.items()
            if stage in ready
        }
        self._wakes: dict[str, asyncio.Task[None]] = {}

    def cold(self, now: float, among: Collection[str] | None = None) -> tuple[str, ...]:
        """The stages, or those of `among`, that are known to have no replica."""
        return tuple(
            stage
            for stage, each in self._cold_pools.items()
            if (among is None or stage in among) and each.pool.cold.is_cold(now)
        )

    def cold_start_s(self, now: float, among: Collection[str] | None = None) -> float:
        """Seconds until every stage, or each of `among`, would have a replica, if a request came
        now."""
        return max(
            (
                each.pool.cold.remaining_s(each.start_up_s, now)
                for stage, each in self._cold_pools.items()
                if among is None or stage in among
            ),
            default=0.0,
        )

    def wake(self, now: float, among: Collection[str] | None = None) -> None:
        """Make Serve start what sleeps, all of it or of `among`, and return at once.

        Whoever asked may leave: a stage that is woken wakes.
        """
        for stage in self.cold(now, among):
            self._cold_pools[stage].pool.cold.wished(now)
            if stage not in self._wakes:
                metrics.COLD_STARTS.add(stage=stage)
                # In a context of its own, or Serve would cancel the call with the request.
                task = asyncio.get_running_loop().create_task(self._wake(stage), context=Context())
                self._wakes[stage] = task

    def waited_s(self, stages: Iterable[str], since: float) -> dict[str, float]:
        """For whose start a caller that needed all `stages` from `since` on has waited, and how
        long."""
        waited = {
            stage: self._cold_pools[stage].pool.cold.waited_s(since)
            for stage in stages
            if stage in self._cold_pools
        }
        return {stage: seconds for stage, seconds in waited.items() if seconds > 0}

    async def _wake(self, stage: str) -> None:
        woken = self._cold_pools[stage]
        try:
            with Calls(_WAKING) as calls:
                await calls.result(stage, woken.ready)
        except (ReplicaLost, SluiceError) as error:
            # Nobody waits for this: the requests that need the stage meet what is wrong themselves.
            logger.warning("%s was not woken: %s", stage, error)
            woken.pool.cold.given_up()
        finally:
            del self._wakes[stage]
