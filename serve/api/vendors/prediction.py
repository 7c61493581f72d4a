"""A job as Replicate's API shows it: a prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field

from serve.api.iso_time import iso_time
from serve.api.vendors.job_logs import job_logs
from serve.jobs.job import Job, JobStatus

PredictionStatus = Literal["starting", "processing", "succeeded", "failed", "canceled"]

_STATUSES: Mapping[JobStatus, PredictionStatus] = {
    JobStatus.QUEUED: "starting",
    JobStatus.RUNNING: "processing",
    JobStatus.SUCCEEDED: "succeeded",
    JobStatus.FAILED: "failed",
    JobStatus.EXPIRED: "failed",
    JobStatus.MODERATED: "failed",
    JobStatus.CANCELLED: "canceled",
}


class PredictionView(BaseModel):
    """Times are ISO 8601."""

    id: str
    model: str
    version: str = Field(description="The model again: what is served is one version.")
    input: dict[str, Any] = Field(description="What is drawn, in our words, the seed resolved.")
    output: list[str] | None = Field(description="URLs of the images.")
    logs: str = Field(description="Its last line with a bar says how far it is.")
    error: str | None
    status: PredictionStatus
    created_at: str
    started_at: str | None
    completed_at: str | None
    metrics: dict[str, float] = Field(description="Seconds.")
    urls: dict[str, str]
    warnings: list[str]

    @classmethod
    def of(cls, job: Job, links_begin: str, *, is_answer_to_wait: bool = False) -> PredictionView:
        """`job` with links that begin so. Whoever waited and gets one that is not over is told
        `starting`, as Replicate's clients take `processing` for its end."""
        status = _STATUSES[job.status]
        if is_answer_to_wait and status == "processing":
            status = "starting"
        here = f"{links_begin}/v1/predictions/{job.id}"
        outputs = [f"{links_begin}/v1/files/{output.file_id}" for output in job.outputs]
        return cls(
            id=job.id,
            model=job.model,
            version=job.model,
            input=job.request,
            output=outputs if job.status is JobStatus.SUCCEEDED else None,
            logs="\n".join(job_logs(job)),
            error=None if job.error is None else job.error.message,
            status=status,
            created_at=iso_time(job.created_at),
            started_at=None if job.started_at is None else iso_time(job.started_at),
            completed_at=None if job.finished_at is None else iso_time(job.finished_at),
            metrics=_metrics(job),
            urls={"get": here, "cancel": f"{here}/cancel"},
            warnings=list(job.warnings),
        )

    def as_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


def _metrics(job: Job) -> dict[str, float]:
    if job.finished_at is None:
        return {}
    began = job.created_at if job.started_at is None else job.started_at
    return {
        "predict_time": round(job.finished_at - began, 3),
        "total_time": round(job.finished_at - job.created_at, 3),
    }
