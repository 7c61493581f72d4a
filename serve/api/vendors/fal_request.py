"""A job as fal's queue shows it: where it is, its status, its result."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from serve.api.iso_time import iso_time
from serve.api.vendors.job_logs import job_logs
from serve.jobs.job import Job, JobOutput, JobStatus
from serve.jobs.place import Place

FalStatus = Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]


class FalLinks(BaseModel):
    request_id: str
    response_url: str
    status_url: str
    cancel_url: str

    @classmethod
    def to(cls, job_id: str, app: str, links_begin: str) -> FalLinks:
        """Of a request to `app`, OWNER/ALIAS, below the address that clients use."""
        here = f"{links_begin}/fal/{app}/requests/{job_id}"
        return cls(
            request_id=job_id,
            response_url=here,
            status_url=f"{here}/status",
            cancel_url=f"{here}/cancel",
        )


class FalQueued(FalLinks):
    """The answer to a submission."""

    status: FalStatus
    queue_position: int = Field(ge=0)
    warnings: list[str]


class FalLog(BaseModel):
    message: str
    level: Literal["INFO", "ERROR"]
    source: Literal["USER"] = "USER"
    timestamp: str


class FalStatusView(FalLinks):
    """`queue_position` is there while it waits, `metrics` when it is over."""

    status: FalStatus
    queue_position: int | None = None
    logs: list[FalLog] | None = Field(description="null unless `logs` asks for them.")
    metrics: dict[str, float] = Field(default_factory=dict[str, float])
    error: str | None = None
    error_type: str | None = None

    @classmethod
    def of(
        cls, job: Job, place: Place, app: str, links_begin: str, *, with_logs: bool
    ) -> FalStatusView:
        error, error_type = _error_of(job)
        return cls(
            **FalLinks.to(job.id, app, links_begin).model_dump(),
            status=status_of(job),
            queue_position=place.position,
            logs=_logs(job) if with_logs else None,
            metrics=_metrics(job),
            error=error,
            error_type=error_type,
        )


class FalImage(BaseModel):
    url: str
    width: int
    height: int
    content_type: str
    file_name: str
    file_size: int


class FalResult(BaseModel):
    """What a request has drawn. Image i has seed + i."""

    images: list[FalImage]
    seed: int
    prompt: str
    timings: dict[str, float]
    has_nsfw_concepts: list[bool]
    warnings: list[str]

    @classmethod
    def of(cls, job: Job, links_begin: str) -> FalResult:
        """Of a job that has succeeded."""
        return cls(
            images=[_image(output, links_begin) for output in job.outputs],
            seed=job.request["seed"],
            prompt=job.request["prompt"],
            timings=job.timings or {},
            # One that the classifier flags fails the whole job.
            has_nsfw_concepts=[False for _ in job.outputs],
            warnings=list(job.warnings),
        )


def status_of(job: Job) -> FalStatus:
    if job.status is JobStatus.QUEUED:
        return "IN_QUEUE"
    return "COMPLETED" if job.status.is_final else "IN_PROGRESS"


def fal_message(job: Job, links_begin: str) -> dict[str, Any]:
    """What a webhook says of a job that is over."""
    error, error_type = _error_of(job)
    has_succeeded = job.status is JobStatus.SUCCEEDED
    result = FalResult.of(job, links_begin).model_dump(mode="json") if has_succeeded else None
    said = {"request_id": job.id, "gateway_request_id": job.id, "payload": result}
    if has_succeeded:
        return {**said, "status": "OK"}
    return {**said, "status": "ERROR", "error": error, "error_type": error_type}


def _error_of(job: Job) -> tuple[str | None, str | None]:
    if job.error is not None:
        return job.error.message, job.error.code
    if job.status is JobStatus.CANCELLED:
        return "the request was cancelled", "client_cancelled"
    return None, None


def _image(output: JobOutput, links_begin: str) -> FalImage:
    return FalImage(
        url=f"{links_begin}/v1/files/{output.file_id}",
        width=output.width,
        height=output.height,
        content_type=f"image/{output.output_format}",
        file_name=f"image_{output.sha256[:8]}.{output.output_format}",
        file_size=output.num_bytes,
    )


def _logs(job: Job) -> list[FalLog]:
    at = iso_time(job.started_at or job.created_at)
    return [
        FalLog(message=line, level="ERROR" if line.startswith("Error:") else "INFO", timestamp=at)
        for line in job_logs(job)
    ]


def _metrics(job: Job) -> dict[str, float]:
    if job.finished_at is None or job.started_at is None:
        return {}
    return {"inference_time": round(job.finished_at - job.started_at, 3)}
