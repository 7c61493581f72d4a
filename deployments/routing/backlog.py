"""Which replica will finish a work first, as far as a caller can tell between two reports.

A replica reports its queued seconds and its cost surface every second or so. Until the next report,
what this caller has sent there since counts on top, and the time that has passed counts off: a
replica does a second of work per second. What other callers send shows with the next report.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from deployments.wire.packed import PackedCheckpoint
from pipelines.contracts import GenerationJob, LatentJob
from pipelines.engine.costs.surface import CostSurface, Load
from pipelines.job_shape import JobShape, shape_of

REPORT_EVERY_S = 1.0
"""Seconds between two reports of a replica."""
STALE_S = 5.0
"""A report older than this says nothing."""


class Report(NamedTuple):
    """A replica at Unix time `at`; `text_tokens` are those of one segment of its model."""

    at: float
    queued_s: float
    text_tokens: int
    surface: CostSurface

    def stats(self) -> dict[str, Any]:
        """As JSON, for Serve to pass on."""
        return {**self._asdict(), "surface": asdict(self.surface)}

    @classmethod
    def read(cls, stats: Mapping[str, Any]) -> Report | None:
        """What `stats` gave; None for a replica that has not reported, or is of another version."""
        try:
            return cls(**{**stats, "surface": CostSurface(**stats["surface"])})
        except (KeyError, TypeError):
            return None

    def alone_s(self, shape: JobShape) -> float:
        """Seconds of a work that shares its ticks with none."""
        return shape.forwards_left * self.surface.seconds(self._load(shape))

    def share_s(self, shape: JobShape) -> float:
        """Seconds of the replica that it takes among others."""
        return shape.forwards_left * self.surface.share(self._load(shape))

    def _load(self, shape: JobShape) -> Load:
        return Load.of(shape.tokens(self.text_tokens))


class _Sent(NamedTuple):
    at: float
    seconds: float
    what: object
    """Kept, so that no other has its identity meanwhile."""


class Queue(NamedTuple):
    """A replica's queued seconds now, and its last report."""

    queued_s: float
    report: Report

    def finish_s(self, shape: JobShape) -> float:
        """Seconds until the replica would have finished a work of `shape` that came now."""
        return self.queued_s + self.report.alone_s(shape)


class Backlogs:
    """What one process knows of the work of a deployment's replicas. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sent: dict[str, dict[int, _Sent]] = {}
        """By replica and identity, as far as no report has it yet."""
        self._reports: dict[str, Report] = {}
        self._last: Report | None = None

    def finish_s(self, replica: str, report: Report, shape: JobShape, now: float) -> float:
        """Seconds from `now` until `replica` would have finished a work of `shape`."""
        with self._lock:
            return self._queue(replica, report, now).finish_s(shape)

    def queues(self, now: float) -> list[Queue]:
        """Of all replicas that have reported lately."""
        with self._lock:
            return [
                self._queue(replica, report, now)
                for replica, report in self._reports.items()
                if now - report.at <= STALE_S
            ]

    @property
    def last(self) -> Report | None:
        """The latest report, even of a replica that is gone; None before the first."""
        return self._last

    def sent(self, what: object, replica: str, seconds: float, now: float) -> None:
        """A work, or a call about one, goes to `replica`."""
        with self._lock:
            self._sent.setdefault(replica, {})[id(what)] = _Sent(now, seconds, what)

    def moved(self, what: object, replica: str) -> None:
        """It went to `replica` after all."""
        key = id(what)
        with self._lock:
            for before, works in self._sent.items():
                if before != replica and key in works:
                    sent = works.pop(key)
                    self._sent.setdefault(replica, {})[key] = sent
                    return

    def heard(self, reports: Mapping[str, Report | None], now: float) -> None:
        """These replicas run, and reported last this, if anything.

        Those that are gone are forgotten, and so is what no report of use can tell of any more.
        """
        with self._lock:
            self._reports = {
                replica: report for replica, report in reports.items() if report is not None
            }
            self._last = max(self._reports.values(), key=lambda each: each.at, default=self._last)
            self._sent = {
                replica: {key: sent for key, sent in works.items() if now - sent.at <= STALE_S}
                for replica, works in self._sent.items()
                if replica in reports
            }

    def _queue(self, replica: str, report: Report, now: float) -> Queue:
        since = self._sent.get(replica, {})
        for key in [key for key, sent in since.items() if sent.at < report.at]:
            del since[key]
        sent_s = sum(sent.seconds for sent in since.values())
        return Queue(max(0.0, report.queued_s + sent_s - (now - report.at)), report)


def spread_s(queues: Sequence[Queue], shape: JobShape, works: int) -> float:
    """Seconds until `works` of `shape` are finished, each on the replica that finishes it first.

    There is a queue for each replica, and one at least.
    """
    left = list(queues)
    last = 0.0
    for _ in range(works):
        index = min(range(len(left)), key=lambda index: left[index].finish_s(shape))
        chosen = left[index]
        last = max(last, chosen.finish_s(shape))
        left[index] = chosen._replace(queued_s=chosen.queued_s + chosen.report.share_s(shape))
    return last


def called_shape(args: Sequence[object], kwargs: Mapping[str, object]) -> JobShape | None:
    """The shape of what a call to draw is about; None for a call that is no work.

    A work that goes on from a checkpoint, `start`, is what is left of it.
    """
    job = args[0] if args else None
    if isinstance(job, LatentJob):
        start = kwargs.get("start")
        return shape_of(job.sampling, start=start if isinstance(start, PackedCheckpoint) else None)
    if isinstance(job, GenerationJob):
        return shape_of(job.params, images=job.params.num_images)
    return None
