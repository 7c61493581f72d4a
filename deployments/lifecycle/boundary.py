"""The edge of a stage's process: what may leave it as an error, and when it counts as sick.

An unexpected exception would drag its class, and so torch, into whoever receives it: it is logged
here, where its traceback means something, and leaves as `StageFailed`. Logs go to Serve's logger,
which adds deployment, replica and request id.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import ray.serve
from ray.serve.exceptions import RayServeException

from deployments.metrics import declared as metrics
from deployments.metrics.instruments import Growth
from deployments.options.stage import StageOptions
from pipelines.batching.demand import Demand
from pipelines.errors import SluiceError, StageFailed

logger = logging.getLogger("ray.serve")

HOLD_S = 3.0

MAX_FAILURES = 5
FAILING_FOR_S = 5.0
"""A GPU in an error state fails every call while its process looks alive, so a replica is sick
after that many unexpected failures in a row, over that time: not after one batch that failed."""


@contextmanager
def starting(stage: str, options: StageOptions) -> Iterator[None]:
    """Around a constructor: Serve reports that one failed, but only the log can say why."""
    began = time.monotonic()
    try:
        yield
    except Exception:  # re-raised: whatever it is, this process's log alone can say it
        logger.exception("%s could not start", stage)
        raise
    logger.info(
        "%s started in %.1f s: device %s, dtype %s, %d threads",
        stage,
        time.monotonic() - began,
        options.resolved_device,
        options.dtype,
        options.resolved_threads,
    )


def end_process(why: str) -> NoReturn:
    """End this replica as a crash would: its calls fail at once, and are made elsewhere.

    For what a health check would notice too, but whose calls should not wait for that.
    """
    logger.critical("%s; this replica ends", why)
    logging.shutdown()
    os._exit(1)


def own_replica() -> str:
    """The id of this process's Serve replica; "" outside of one."""
    try:
        return ray.serve.get_replica_context().replica_id.unique_id
    except RayServeException:
        return ""


class KeepAlive:
    """A stage that callers can keep from ending while it goes away: Serve waits for its calls."""

    async def hold(self) -> None:
        """Returns after `HOLD_S`, as a caller may be gone that should have cancelled it."""
        await asyncio.sleep(HOLD_S)


class Boundary:
    """Around each call of one stage."""

    def __init__(self, stage: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stage = stage
        self.replica = own_replica()
        """Who answers, as spans name it."""
        self._clock = clock
        self._failures = 0
        self._first_failure = 0.0
        self._last_failure = 0.0
        self._growth = Growth()

    @contextmanager
    def call(self) -> Iterator[None]:
        """Lets our own errors and cancellation pass, and turns all others into StageFailed."""
        try:
            yield
        except SluiceError:
            raise
        except Exception as error:  # the edge of the process: its class may need torch to unpickle
            self._count_failure()
            logger.exception("%s failed", self._stage)
            raise StageFailed(f"{self._stage} failed on this request", stage=self._stage) from error
        self._failures = 0

    def check_health(self) -> None:
        """Raises StageFailed after unexpected failures in a row; see `MAX_FAILURES`."""
        failing_for = self._last_failure - self._first_failure
        if self._failures >= MAX_FAILURES and failing_for >= FAILING_FOR_S:
            raise StageFailed(
                f"the last {self._failures} calls failed unexpectedly", stage=self._stage
            )

    def took(self, **phases: float) -> None:
        """An item had these phases in the stage, in seconds: what its metrics say."""
        for phase, seconds in phases.items():
            metrics.STAGE_SECONDS.observe(seconds, stage=self._stage, phase=phase)

    def has_to_do(self, demand: Demand) -> None:
        """Tell what the stage has to do and has done, every second or so, or the metric lapses."""
        metrics.STAGE_QUEUE_SECONDS.set(demand.queued_s, stage=self._stage)
        busy_s = self._growth.of({"busy": demand.busy_s})["busy"]
        metrics.STAGE_BUSY_SECONDS.add(busy_s, stage=self._stage)

    def _count_failure(self) -> None:
        metrics.STAGE_FAILURES.add(stage=self._stage)
        self._last_failure = self._clock()
        if self._failures == 0:
            self._first_failure = self._last_failure
        self._failures += 1
