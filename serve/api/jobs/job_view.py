"""A job as clients see it: JSON types, and how a stored job becomes one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field

from serve.errors import in_milliseconds
from serve.jobs.job import Job, JobKind, JobOutput, JobStatus
from serve.jobs.place import Cause, Place
from serve.jobs.progress import progress_of
from serve.jobs.stored_pictures import shown_request

Phase = Literal["queued", "encode", "denoise", "decode", "finish", "done"]


class ImageProgressView(BaseModel):
    image: int
    phase: Phase
    step: int
    total: int


class ProgressView(BaseModel):
    """How far a job is: the phase of the image that is furthest behind, and forwards of all."""

    phase: Phase
    step: int
    total: int
    fraction: float = Field(ge=0, le=1)
    images: list[ImageProgressView]


class QueueView(BaseModel):
    position: int = Field(ge=0, description="Jobs that go first.")


class EtaView(BaseModel):
    ms: int = Field(description="From now until the job should be over.")
    reason: str = Field(description="What it waits for, in words.")
    cause: Cause = Field(
        description="The same as a code: other `jobs`, `requests` under way, the `start` of stages"
        " that sleep, nobody (`next`), or itself, in a phase."
    )


class OutputView(BaseModel):
    """A finished image."""

    image: int
    url: str
    expires_at: float | None = Field(
        description="When its file is gone, if not earlier for want of space; null while the job"
        " is not over."
    )
    seed: int
    width: int
    height: int
    sha256: str
    output_format: str
    num_bytes: int
    steps: int | None = Field(description="Forwards that were really run.")


class JobUsageView(BaseModel):
    input_tokens: int
    input_image_tokens: int = Field(description="Those of pictures among the `input_tokens`.")
    output_tokens: int
    total_tokens: int
    device_seconds: float = Field(description="Of a denoiser.")
    megapixel_steps: float = Field(description="Forwards times the image's area in 1e6 pixels.")


class JobErrorView(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class JobView(BaseModel):
    """A job. Times are Unix seconds."""

    id: str
    object: Literal["job"] = "job"
    kind: JobKind
    status: JobStatus
    model: str
    created_at: float
    started_at: float | None
    finished_at: float | None
    expires_at: float | None = Field(description="When it is forgotten.")
    progress: ProgressView
    queue: QueueView | None = Field(description="While it waits to be begun.")
    eta: EtaView | None = Field(description="null where it is over, or nobody knows.")
    request: dict[str, Any] = Field(description="What is drawn: a body, with the seed resolved.")
    outputs: list[OutputView]
    usage: JobUsageView | None
    safety: dict[str, Any] | None = Field(description="Why it was moderated.")
    warnings: list[str]
    error: JobErrorView | None
    trace_id: str
    pending_action: Literal["cancel", "keep"] | None
    attempts: int = Field(description="Runners that have begun it.")
    last_event: int = Field(description="The number of its latest event, up to which this tells.")

    @classmethod
    def of(cls, job: Job, place: Place, links_begin: str, *, files_s: float) -> JobView:
        """`job` at its `place`, with links that begin so, to files that are kept for `files_s`."""
        usage, error = job.usage, job.error
        gone_at = _files_gone_at(job, files_s)
        return cls(
            id=job.id,
            kind=job.kind,
            status=job.status,
            model=job.model,
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
            expires_at=job.expires_at,
            progress=ProgressView(**progress_of(job)),
            queue=None if place.position is None else QueueView(position=place.position),
            eta=None
            if place.eta_s is None
            else EtaView(ms=in_milliseconds(place.eta_s), reason=place.reason, cause=place.cause),
            request=shown_request(job.request),
            outputs=[output_view(output, links_begin, gone_at) for output in job.outputs],
            usage=None
            if usage is None
            else JobUsageView(
                input_tokens=usage.input_tokens,
                input_image_tokens=usage.input_image_tokens,
                output_tokens=usage.output_tokens,
                total_tokens=usage.total_tokens,
                device_seconds=usage.device_seconds,
                megapixel_steps=usage.megapixel_steps,
            ),
            safety=job.safety,
            warnings=list(job.warnings),
            error=None
            if error is None
            else JobErrorView(
                message=error.message, type=error.type, param=error.param, code=error.code
            ),
            trace_id=job.trace_id,
            pending_action=None if job.pending_action is None else job.pending_action.value,
            attempts=job.attempts,
            last_event=job.last_event,
        )

    def as_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


class JobList(BaseModel):
    """Some jobs, the newest first."""

    object: Literal["list"] = "list"
    data: list[JobView]
    next_cursor: str | None = Field(description="Leads to older ones; null at the end.")
    warnings: list[str] = Field(description="Why nothing is listed to who has no name.")


def _files_gone_at(job: Job, files_s: float) -> float | None:
    """When none of the job's files is there any more: they are older than its end, and leave with
    it. None while it is not over."""
    if job.finished_at is None:
        return None
    by_age = job.finished_at + files_s
    return by_age if job.expires_at is None else min(by_age, job.expires_at)


def output_view(output: JobOutput, links_begin: str, expires_at: float | None = None) -> OutputView:
    """A finished image with its link."""
    return OutputView(
        image=output.image,
        url=f"{links_begin}/v1/files/{output.file_id}",
        expires_at=expires_at,
        seed=output.seed,
        width=output.width,
        height=output.height,
        sha256=output.sha256,
        output_format=output.output_format,
        num_bytes=output.num_bytes,
        steps=output.steps,
    )


def stored_output(data: Mapping[str, Any]) -> JobOutput:
    """An output as events have it."""
    return JobOutput(**data)
