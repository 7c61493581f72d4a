"""The edge of a stage's process: what may leave it as an error, and when it counts as sick.

An unexpected exception would drag its class, and so torch, into whoever receives it: it is logged
here, where its traceback means something, and leaves as `StageFailed`. Logs go to Serve's logger,
which adds deployment, replica and request id.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from deployments.placement import StageOptions
from pipelines.errors import SluiceError, StageFailed

logger = logging.getLogger("ray.serve")

MAX_CONSECUTIVE_FAILURES = 5
"""A GPU in an error state fails every call while its process looks alive: let it be replaced."""


@contextmanager
def starting(stage: str, options: StageOptions) -> Iterator[None]:
    """Around a constructor: Serve reports that one failed, but only the log can say why."""
    began = time.monotonic()
    try:
        yield
    except Exception:
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


class Boundary:
    """Around each call of one stage."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._failures = 0

    @contextmanager
    def call(self) -> Iterator[None]:
        """Lets our own errors and cancellation pass, and turns all others into StageFailed."""
        try:
            yield
        except SluiceError:
            raise
        except Exception as error:
            self._failures += 1
            logger.exception("%s failed", self._stage)
            raise StageFailed(f"{self._stage} failed on this request", stage=self._stage) from error
        self._failures = 0

    def check_health(self) -> None:
        """Raises StageFailed after several unexpected errors in a row."""
        if self._failures >= MAX_CONSECUTIVE_FAILURES:
            raise StageFailed(
                f"the last {self._failures} calls failed unexpectedly", stage=self._stage
            )
