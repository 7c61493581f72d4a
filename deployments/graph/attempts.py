"""What is tried again when replicas go away: a stage's calls, and an image's denoising.

Stages are repeated as a whole, they are short. Denoising goes on from the image's last checkpoint,
which the graph holds: its replica may be gone, and the image is the same wherever it is drawn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from deployments.graph.failures import ReplicaLost
from deployments.graph.request_log import RequestLog
from deployments.metrics import declared as metrics
from deployments.wire.packed import HandOver, PackedCheckpoint, PackedLatents
from pipelines.contracts import ServiceTerms
from pipelines.errors import StageFailed
from pipelines.tracing.open_spans import OpenSpan

MAX_ATTEMPTS = 3
"""Times that a stage, or a denoising that does not get further, is tried when replicas die."""

RETRY_PAUSE_S = 0.2
"""Before a retry, so that the lost replica has left the router."""

T = TypeVar("T")


async def retried(log: RequestLog, span: OpenSpan, attempt: Callable[[int], Awaitable[T]]) -> T:
    """The result of `attempt`, given its number, tried again when a replica was lost.

    `span` is what the attempts, and the pauses between them, are parts of.

    Raises StageFailed after `MAX_ATTEMPTS`, and whatever else `attempt` raises.
    """
    for number in range(MAX_ATTEMPTS):
        try:
            return await attempt(number)
        except ReplicaLost as lost:
            metrics.LOST_CALLS.add(stage=str(lost.stage))
            log.warning(
                "replica_lost",
                f"a replica of {lost.stage} was lost in attempt {number + 1} of {MAX_ATTEMPTS}",
                stage=str(lost.stage),
                attempt=number + 1,
            )
            if number + 1 == MAX_ATTEMPTS:
                raise _gave_up(lost) from None
        await _pause(span)
    raise AssertionError("the last attempt returns or raises")


def accepted(terms: ServiceTerms) -> ServiceTerms:
    """Terms for another attempt: what was accepted is not refused any more, and stays promised."""
    is_promised = terms.refuses_late or terms.is_promised
    return replace(terms, refuses_late=False, is_promised=is_promised)


class DenoiseAttempts:
    """One image's denoising, passed on from replica to replica until it is done.

    `checkpoint` is what it goes on from, and `resumed_at` are the steps at which it did so, 0 for a
    start from noise, after `count` attempts in all, which are parts of `span`. `was_accepted` once
    a replica has taken it on, `lost` once one was lost, its own or one that it was waiting for.
    With `start`, its request is taken up again there.
    """

    def __init__(
        self, log: RequestLog, span: OpenSpan, start: PackedCheckpoint | None = None
    ) -> None:
        self.checkpoint = start
        self.resumed_at: list[int] = []
        self.count = 0
        self.was_accepted = False
        self.lost = False
        self._log = log
        self._span = span
        self._losses = 0
        if start is not None:
            self._go_on("its request is taken up again")

    async def run(
        self, attempt: Callable[[], Awaitable[PackedLatents | HandOver]]
    ) -> PackedLatents:
        """The latents. `attempt` starts from `checkpoint`, and keeps there what it gets.

        A lost replica counts only if the image has not got further with it; one that hands its
        works over never does, so the caller bounds the time. Raises StageFailed when
        `MAX_ATTEMPTS` count, and whatever else `attempt` raises.
        """
        while True:
            began_at = self.step
            try:
                result = await attempt()
                if isinstance(result, PackedLatents):
                    return result
                self.was_accepted = self.was_accepted or result.was_accepted
                metrics.MOVED_IMAGES.add(1 if result.was_accepted else 0)
                if self.step > began_at:
                    self._go_on("its denoiser goes away")
                    continue
            except ReplicaLost as lost:
                self.lost = True
                metrics.LOST_CALLS.add(stage=str(lost.stage))
                self._count_loss(lost, began_at)
                self._go_on(f"a replica of {lost.stage} was lost")
            finally:
                self.count += 1
            await _pause(self._span)

    @property
    def step(self) -> int:
        """Steps that need not be run again."""
        return 0 if self.checkpoint is None else self.checkpoint.step

    def _go_on(self, reason: str) -> None:
        self.resumed_at.append(self.step)
        metrics.RESUMED_IMAGES.add(1 if self.step else 0)
        self.was_accepted = True
        self._log.warning(
            "image_resumed", f"{reason}, an image goes on from step {self.step}", step=self.step
        )

    def _count_loss(self, lost: ReplicaLost, began_at: int) -> None:
        if self.step > began_at:
            return
        self._losses += 1
        if self._losses == MAX_ATTEMPTS:
            raise _gave_up(lost) from None


async def _pause(span: OpenSpan) -> None:
    with span.part("retry.wait"):
        await asyncio.sleep(RETRY_PAUSE_S)


def _gave_up(lost: ReplicaLost) -> StageFailed:
    return StageFailed(
        f"{lost.stage} failed {MAX_ATTEMPTS} times on this request", stage=lost.stage
    )
