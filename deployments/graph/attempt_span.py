"""An attempt at an image's denoising, as a span: what its replica told of it, be it lost or not."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager

from deployments.graph.attempts import DenoiseAttempts
from deployments.graph.failures import ReplicaLost
from deployments.wire.packed import HandOver, PackedLatents
from pipelines.tracing.open_spans import OpenSpan
from pipelines.tracing.spans import TRANSFER, Span, Spans

HANDED_OVER = "handed over"
"""Why an attempt ended whose replica went away, or had more to do than others."""

LOST = "denoise.lost"
"""Of an attempt whose replica was lost: from the last that it told of until that was noticed."""


class AttemptSpan:
    """Of one attempt; a replica that is lost has told of itself with each checkpoint."""

    def __init__(self, span: OpenSpan) -> None:
        self._span = span
        self._reported: Spans = ()
        self._heard_ns = time.time_ns()

    def so_far(self, spans: Spans) -> None:
        """What its replica has done until a checkpoint, all of it."""
        self._reported = spans

    def ends_with(self, item: PackedLatents | HandOver) -> None:
        """The replica's last item: the image's latents, or that it hands the image over."""
        if isinstance(item, PackedLatents):
            self._reported = item.spans
        else:
            self._span.error = HANDED_OVER

    def was_lost(self) -> None:
        """Its replica is gone, and what it did since its last checkpoint."""
        heard_ns = max((span.end_ns for span in self._reported), default=self._heard_ns)
        now = time.time_ns()
        self._reported = (*self._reported, Span(name=LOST, start_ns=min(heard_ns, now), end_ns=now))

    def close(self) -> None:
        """It is over, whatever became of it."""
        self._span.add(self._reported)


@contextmanager
def attempt_span(part: OpenSpan, attempts: DenoiseAttempts, trace: str) -> Generator[AttemptSpan]:
    """Around an attempt of `attempts`, linked to the one before; a part of `part`."""
    numbers = {"attempt": attempts.count + 1, "start_step": attempts.step}
    with part.part("denoise", gaps=TRANSFER, attempt_in=trace, **numbers) as span:
        attempt = AttemptSpan(span)
        try:
            yield attempt
        except ReplicaLost:
            attempt.was_lost()
            raise
        finally:
            attempt.close()
