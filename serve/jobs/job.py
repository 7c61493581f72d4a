"""Job: a generation with a life of its own, as it is stored. Knows neither HTTP nor a store."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

JobKind = Literal["generate", "edit", "variation"]
"""What it draws from: a prompt, pictures, or a picture that it is to be like."""


class JobStatus(StrEnum):
    """Where a job stands. `QUEUED` and `RUNNING` are left in time, the others never."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    MODERATED = "moderated"

    @property
    def is_final(self) -> bool:
        """Whether nothing more will be done."""
        return self not in (JobStatus.QUEUED, JobStatus.RUNNING)


class JobAction(StrEnum):
    """What an owner has asked of a job that is not over."""

    CANCEL = "cancel"
    KEEP = "keep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whose a job is: nobody else can see or touch it.

    `tenant` is as in `serve.tenancy`. Without one ("") whoever knows a job's id, 128 random bits,
    is its owner, and jobs are listed to nobody.
    """

    tenant: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageProgress:
    """How far image `image` is: `step` forwards done of `total`, in a `phase`
    (`deployments.graph.listening.events.Phase`)."""

    image: int
    phase: str
    step: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOutput:
    """A finished image, in the file store. `seed` is its own; `steps` were really run."""

    image: int
    file_id: str
    output_format: str
    seed: int
    width: int
    height: int
    sha256: str
    num_bytes: int
    steps: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobUsage:
    """What a job has cost. `device_seconds` are a denoiser's, `megapixel_steps` its forwards times
    the image's area in 1e6 pixels; `input_image_tokens` are those of pictures among the
    `input_tokens`."""

    input_tokens: int
    output_tokens: int
    device_seconds: float
    megapixel_steps: float
    input_image_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class JobError:
    """Why a job has no images, in the words of the API's error bodies."""

    message: str
    type: str
    code: str
    param: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job as it is stored. Times are Unix seconds.

    `request` is the body as it was accepted, all JSON, with its seed resolved: what it draws is
    decided by it alone. `dialect` names the API that it came by. `body_sha256` is of the body as it
    was sent, to recognise a replay of `idempotency_key`. `webhook` is the URL to be told of its
    end. `attempts` counts the runners that have begun it. `last_event` is the number of its newest
    stored event, from 1. `deadline` is that of the images, `expires_at` when the job itself is
    forgotten, set when it is over.
    """

    id: str
    tenant: str
    kind: JobKind = "generate"
    dialect: str = "sluice"
    model: str
    user: str | None = None
    request: dict[str, Any]
    body_sha256: str
    idempotency_key: str | None = None
    webhook: str | None = None
    priority: int = 0
    deadline: float | None = None
    status: JobStatus = JobStatus.QUEUED
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    expires_at: float | None = None
    images: tuple[ImageProgress, ...] = ()
    outputs: tuple[JobOutput, ...] = ()
    usage: JobUsage | None = None
    error: JobError | None = None
    safety: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    timings: dict[str, float] | None = None
    trace_id: str = ""
    pending_action: JobAction | None = None
    attempts: int = 0
    work_s: float = 0.0
    last_event: int = 0

    @property
    def num_images(self) -> int:
        """Images that it draws: as many as there is progress of, else as its request says."""
        requested = self.request.get("n")
        return len(self.images) or (requested if isinstance(requested, int) else 1)

    @property
    def num_bytes(self) -> int:
        """Size of its files."""
        return sum(output.num_bytes for output in self.outputs)

    def is_seen_by(self, owner: Owner) -> bool:
        """Whether `owner`, who knows the id, may see and steer it."""
        return self.tenant == owner.tenant


def new_job_id() -> str:
    """`job_` and 128 random bits."""
    return f"job_{secrets.token_hex(16)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """One thing that happened to a job. Stored events are numbered from 1, without gaps.

    `type` is `job.queued`, `job.running` (also when another runner goes on with it), `job.progress`
    (an image went on), `job.image` (an image is finished), or `job.` and a final status, which is
    the last. `data` is JSON. A preview (`job.preview`) is not stored and has number None.
    """

    job_id: str
    number: int | None
    type: str
    at: float
    data: dict[str, Any]
