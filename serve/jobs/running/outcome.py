"""Outcome: what becomes of a job when its generation ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines import errors
from pipelines.contracts import FinishedImage, GenerationResult
from serve.errors import ERROR_TABLE, error_code
from serve.jobs.job import JobError, JobOutput, JobStatus, JobUsage

_POLICY_FIELDS = ("stage", "category", "score", "threshold", "image_index")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A final status, and the fields of the job that go with it."""

    status: JobStatus
    error: JobError | None = None
    safety: dict[str, Any] | None = None
    outputs: tuple[JobOutput, ...] = ()
    usage: JobUsage | None = None
    warnings: tuple[str, ...] = ()
    timings: dict[str, float] | None = field(default=None)

    @property
    def event(self) -> str:
        """The type of the job's last event."""
        return f"job.{self.status}"


CANCELLED = Outcome(status=JobStatus.CANCELLED)


def outcome_of_result(result: GenerationResult) -> Outcome:
    """All images are there."""
    usage = result.usage
    return Outcome(
        status=JobStatus.SUCCEEDED,
        outputs=tuple(output_of(index, image) for index, image in enumerate(result.images)),
        usage=JobUsage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            device_seconds=usage.device_seconds,
            megapixel_steps=usage.megapixel_steps,
            input_image_tokens=usage.input_image_tokens,
        ),
        warnings=result.warnings,
        timings=dict(result.timings),
    )


def outcome_of_error(error: errors.SluiceError) -> Outcome:
    """It ended by `error`, which no time heals or which was waited for long enough."""
    rule = ERROR_TABLE[type(error)]
    status, safety = JobStatus.FAILED, None
    match error:
        case errors.ContentPolicyViolation():
            status = JobStatus.MODERATED
            safety = {name: error.fields[name] for name in _POLICY_FIELDS}
            if error.picture is not None:
                safety["picture"] = error.picture
        case errors.DeadlineUnreachable():
            status = JobStatus.EXPIRED
        case _:
            pass
    shown = JobError(
        message=error.message,
        type=rule.type,
        code=rule.code,
        param=getattr(error, "param", None),
    )
    return Outcome(status=status, error=shown, safety=safety)


def failed(message: str) -> Outcome:
    """It failed for a reason that is no error of the generation's own."""
    rule = ERROR_TABLE[errors.StageFailed]
    shown = JobError(message=message, type=rule.type, code=rule.code)
    return Outcome(status=JobStatus.FAILED, error=shown)


def unforeseen() -> Outcome:
    """A bug: its text stays in the log."""
    rule = ERROR_TABLE[errors.SluiceError]
    message = "the server failed in a way it did not foresee; its log names this job"
    return Outcome(
        status=JobStatus.FAILED,
        error=JobError(message=message, type=rule.type, code=error_code(Exception())),
    )


def unstored(images: Sequence[FinishedImage]) -> errors.StageFailed | None:
    """The error of images without a file, which a job's have to have."""
    for index, image in enumerate(images):
        if image.file_id is None:
            return errors.StageFailed(
                f"image {index} could not be stored: {image.not_stored or 'no reason was given'}",
                stage="storage",
            )
    return None


def output_of(index: int, image: FinishedImage) -> JobOutput:
    """A finished image that is stored, as the job has it."""
    assert image.file_id is not None
    return JobOutput(
        image=index,
        file_id=image.file_id,
        output_format=image.output_format,
        seed=image.seed,
        width=image.width,
        height=image.height,
        sha256=image.sha256,
        num_bytes=image.num_bytes,
        steps=image.steps_run,
    )
