"""SpotWatch: when a spot machine gets its notice, its Ray node is drained.

Runs beside `ray start` and ends with its node. Ray watches no cloud's notice itself: unwarned, it
learns of a reclaimed machine when that no longer answers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from serve.nodes.ray_node import DrainRefused
from serve.nodes.spot import Metadata, MetadataUnavailable

logger = logging.getLogger("sluice.spot")


class Node(Protocol):
    """What is drained; `RayNode` is one."""

    def is_running(self) -> bool: ...

    def drain(self, reason: str, deadline: float | None) -> None: ...


class SpotWatch:
    """Watches one machine. A metadata service or Ray that fails is named once, and asked again."""

    def __init__(
        self, metadata: Metadata, node: Node, *, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._metadata = metadata
        self._node = node
        self._sleep = sleep
        self._is_spot: bool | None = None
        self._drained_for: str | None = None
        self._trouble: str | None = None

    def run(self) -> None:
        """Watch until the node has ended; returns at once on a machine that is not on spot."""
        while self._node.is_running():
            try:
                if not self._look():
                    logger.info("this machine is not on spot: there is nothing to watch")
                    return
                self._settle()
            except (MetadataUnavailable, DrainRefused) as error:
                self._complain(error)
            self._sleep(self._metadata.pause_s)
        logger.info("the Ray node has ended")

    def _look(self) -> bool:
        """Drain the node if there is a notice that it has not been drained for; False: no spot."""
        if self._is_spot is None:
            self._is_spot = self._metadata.is_spot()
        if not self._is_spot:
            return False
        notice = self._metadata.notice()
        if notice is not None and notice.reason != self._drained_for:
            self._node.drain(notice.reason, notice.deadline)
            self._drained_for = notice.reason
            logger.warning("%s%s: its Ray node is drained", notice.reason, _at(notice.deadline))
        return True

    def _complain(self, error: Exception) -> None:
        kind = type(error).__name__
        if kind != self._trouble:
            logger.warning("%s: %s; asking again", kind, error)
        self._trouble = kind

    def _settle(self) -> None:
        if self._trouble is not None:
            logger.info("%s: over", self._trouble)
        self._trouble = None


def _at(deadline: float | None) -> str:
    return "" if deadline is None else f" at {datetime.fromtimestamp(deadline, UTC):%H:%M:%S} UTC"
