"""Works that wait go to replicas that came, or got free, after they were sent.

A work is sent at once to whoever would then finish it first, and waits there, where the engine
orders it among the others. So what comes while the first replica of a burst runs is all with that
one, and replicas that start later would find nothing to do. As long as works are under way, their
caller looks at what the replicas report; where these differ by much, each replica is asked to hand
back what it has above the mean and has not begun, and the calls come again.

Several callers may do so: a replica that has given away has nothing above the mean.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import Context
from statistics import fmean

import ray.exceptions
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.broadcast import ask_all_replicas
from deployments.metrics import declared as metrics
from deployments.routing.backlog import REPORT_EVERY_S, Backlogs

logger = logging.getLogger("ray.serve")

GAP_S = 2.0
"""Between the fullest and the emptiest replica, that is worth moving works for."""
GAP_SHARE = 0.5
"""Of the mean, the same: reports are up to a second old, and estimates differ."""

_SETTLE_S = 3 * REPORT_EVERY_S
"""Until reports tell of works that were moved."""
_TIMEOUT_S = 10.0


def keep_s(queued_s: Sequence[float]) -> float | None:
    """Seconds of work that a replica may keep, given those of each; None if nothing need move."""
    if len(queued_s) < 2:
        return None
    mean_s = fmean(queued_s)
    gap_s = max(queued_s) - min(queued_s)
    return mean_s if gap_s > max(GAP_S, GAP_SHARE * mean_s) else None


class Balance:
    """Keeps the replicas of one deployment even. For one event loop."""

    def __init__(self, backlogs: Backlogs, denoiser: DeploymentHandle) -> None:
        self._backlogs = backlogs
        self._denoiser = denoiser
        self._users = 0
        self._watch: asyncio.Task[None] | None = None

    @contextmanager
    def kept(self) -> Generator[None]:
        """While any caller is in here, replicas are looked at."""
        self._users += 1
        if self._watch is None:
            # In a context of its own: it outlives the request that was the first.
            loop = asyncio.get_running_loop()
            self._watch = loop.create_task(self._run(), context=Context())
        try:
            yield
        finally:
            self._users -= 1
            if self._users == 0:
                self._watch.cancel()
                self._watch = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            queues = self._backlogs.queues(time.time())
            kept = keep_s([queue.queued_s for queue in queues])
            if kept is not None:
                await self._rebalance(kept)
                await asyncio.sleep(_SETTLE_S)

    async def _rebalance(self, kept: float) -> None:
        try:
            # Those of replicas that are lost meanwhile, which have nothing to give, among them.
            answers = await ask_all_replicas(
                self._denoiser, "rebalance", kept, timeout_s=_TIMEOUT_S
            )
        except (TimeoutError, ray.exceptions.RayError, RayServeException) as error:
            logger.warning("works stay where they are until the next look: %s", error)
            return
        if given := sum(answer for answer in answers if isinstance(answer, int)):
            metrics.SHED_IMAGES.add(given)
            logger.info("%d images go to replicas that will begin them sooner", given)
