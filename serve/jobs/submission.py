"""Submission: a request that is to become a job. Knows no HTTP."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deployments.graph.forecast import Forecast
from pipelines.job_shape import shape_of
from serve.generation.plan import Plan
from serve.jobs.job import ImageProgress, Job, JobKind, new_job_id
from serve.jobs.progress import QUEUED
from serve.jobs.stored_request import stored_request

UNKNOWN_WORK_S = 1.0
"""Of an image, for the bounds of the queue, as long as no denoiser has reported what one costs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What was asked for, by whom and when.

    `body` is as it was sent, to recognise a replay of `idempotency_key`; `plan` is what it means.
    `dialect` names the API that it came by, `webhook` the URL to be told of its end, which has been
    checked. `arrived` is in Unix seconds.
    """

    body: Mapping[str, Any]
    plan: Plan
    tenant: str
    arrived: float
    user: str | None = None
    kind: JobKind = "generate"
    dialect: str = "sluice"
    idempotency_key: str | None = None
    webhook: str | None = None
    trace_id: str = ""

    def job(self, forecast: Forecast) -> Job:
        """A new job, of as much work as `forecast` says."""
        params, requested = self.plan.params, self.plan.requested
        deadline_ms = requested.deadline_ms if requested.is_deadline_asked else None
        steps = shape_of(params).forwards
        return Job(
            id=new_job_id(),
            tenant=self.tenant,
            kind=self.kind,
            dialect=self.dialect,
            model=self.plan.finish.model,
            user=self.user,
            request=stored_request(self.plan),
            body_sha256=body_sha256(self.body),
            idempotency_key=self.idempotency_key,
            webhook=self.webhook,
            priority=requested.priority,
            deadline=None if deadline_ms is None else self.arrived + deadline_ms / 1000,
            created_at=self.arrived,
            images=tuple(
                ImageProgress(image=index, phase=QUEUED, step=0, total=steps)
                for index in range(params.num_images)
            ),
            warnings=self.plan.warnings,
            trace_id=self.trace_id,
            work_s=forecast.work_s or UNKNOWN_WORK_S * params.num_images,
        )


def body_sha256(body: Mapping[str, Any]) -> str:
    """Of a body's meaning: neither the order of its fields nor its blanks count."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()
