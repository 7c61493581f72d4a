"""Which replica will finish a work first, as far as a caller can tell between two reports.

A replica reports its queued seconds and its cost surface every second or so. Until the next report,
what this caller has sent there since counts on top, and the time that has passed counts off: a
replica does a second of work per second. What other callers send shows with the next report.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from pipelines.contracts import GenerationJob, LatentJob
from pipelines.engine.cost import CostSurface, Load

REPORT_EVERY_S = 1.0
"""Seconds between two reports of a replica."""
STALE_S = 5.0
"""A report older than this says nothing."""


class Shape(NamedTuple):
    """What decides how long a work takes: `images` of `image_tokens`, each guided or not."""

    image_tokens: int
    num_steps: int
    images: int
    guided: bool


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
        """What `stats` gave; None for a replica that has not reported yet."""
        if not stats:
            return None
        return cls(**{**stats, "surface": CostSurface(**stats["surface"])})

    def alone_s(self, shape: Shape) -> float:
        """Seconds of a work that shares its ticks with none."""
        return shape.num_steps * self.surface.seconds(self._load(shape))

    def share_s(self, shape: Shape) -> float:
        """Seconds of the replica that it takes among others."""
        return shape.num_steps * self.surface.share(self._load(shape))

    def _load(self, shape: Shape) -> Load:
        segments = shape.images * (2 if shape.guided else 1)
        return Load.of([shape.image_tokens + self.text_tokens] * segments)


class _Sent(NamedTuple):
    at: float
    seconds: float


class Backlogs:
    """What one caller knows of all replicas of a deployment. For one thread."""

    def __init__(self) -> None:
        self._sent: dict[str, dict[str, _Sent]] = {}
        """By replica and request, as far as no report has it yet."""
        self._places: dict[str, str] = {}
        """The replica of each request that has not ended."""

    def finish_s(self, replica: str, report: Report, shape: Shape, now: float) -> float:
        """Seconds from `now` until `replica` would have finished a work of `shape`."""
        since = self._sent.get(replica, {})
        for request_id in [key for key, sent in since.items() if sent.at < report.at]:
            del since[request_id]
        sent_s = sum(sent.seconds for sent in since.values())
        return max(0.0, report.queued_s + sent_s - (now - report.at)) + report.alone_s(shape)

    def sent(self, request_id: str, replica: str, seconds: float, now: float) -> None:
        """A request goes to `replica`."""
        self._sent.setdefault(replica, {})[request_id] = _Sent(now, seconds)
        self._places[request_id] = replica

    def moved(self, request_id: str, replica: str) -> None:
        """It went to `replica` after all."""
        before = self._places.get(request_id)
        if before is not None and before != replica:
            self._places[request_id] = replica
            if sent := self._sent[before].pop(request_id, None):
                self._sent.setdefault(replica, {})[request_id] = sent

    def done(self, request_id: str) -> None:
        """A request has ended, in whatever way."""
        if (replica := self._places.pop(request_id, None)) is not None:
            self._sent[replica].pop(request_id, None)

    def keep(self, replicas: Collection[str]) -> None:
        """Forget the replicas that are gone."""
        for replica in self._sent.keys() - replicas:
            del self._sent[replica]
        self._places = {key: at for key, at in self._places.items() if at in replicas}


def shape_of(job: object) -> Shape | None:
    """The shape of what a call is about; None for a call that is no work."""
    if isinstance(job, LatentJob):
        guided = job.true_cfg_scale > 1.0
        return Shape(_tokens(job.height, job.width), job.num_inference_steps, 1, guided)
    if isinstance(job, GenerationJob):
        params = job.params
        tokens = _tokens(params.height, params.width)
        return Shape(tokens, params.num_inference_steps, params.num_images, params.uses_true_cfg)
    return None


def _tokens(height: int, width: int) -> int:
    return (height // 16) * (width // 16)
