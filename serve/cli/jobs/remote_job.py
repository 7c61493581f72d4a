"""RemoteJob: a job as a server describes it, as far as the command line reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from serve.jobs.job import JobStatus


class _Part(BaseModel):
    """What a newer server says besides is kept, to be shown as JSON."""

    model_config = ConfigDict(frozen=True, extra="allow")


class RemoteProgress(_Part):
    """How far all images together are; `fraction` is 0 to 1."""

    phase: str
    step: int
    total: int
    fraction: float = 0.0


class RemotePlace(_Part):
    """Where in the queue: so many jobs go first."""

    position: int


class RemoteEta(_Part):
    """When it should be over, and why then."""

    ms: int
    reason: str = ""


class RemoteOutput(_Part):
    """A finished image; `url` may be a path, to a file that is gone at `expires_at`."""

    image: int
    url: str | None
    expires_at: float | None = None
    seed: int
    sha256: str
    width: int
    height: int


class RemoteError(_Part):
    """Why there are no images."""

    message: str
    code: str | None = None


class RemoteJob(_Part):
    """Times are Unix seconds."""

    id: str
    status: JobStatus
    model: str
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    expires_at: float | None = None
    progress: RemoteProgress | None = None
    queue: RemotePlace | None = None
    eta: RemoteEta | None = None
    request: Mapping[str, Any] = {}
    outputs: tuple[RemoteOutput, ...] = ()
    usage: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    error: RemoteError | None = None
    trace_id: str = ""
    pending_action: Literal["cancel", "keep"] | None = None
    attempts: int = 0

    @property
    def is_over(self) -> bool:
        return self.status.is_final

    @property
    def prompt(self) -> str:
        """On one line; "" if the server does not say."""
        return " ".join(str(self.request.get("prompt") or "").split())

    def after(self, event: Mapping[str, Any]) -> RemoteJob:
        """The job once `event` has happened: it may hold all of it, or parts that are new.

        Raises ValueError, as what a server sends may be anything.
        """
        if (whole := event.get("job")) is not None:
            return RemoteJob.model_validate(whole)
        parts = {name: event[name] for name in ("progress", "queue", "eta") if name in event}
        return RemoteJob.model_validate({**self.as_json(), **parts}) if parts else self

    def as_json(self) -> dict[str, Any]:
        """As the server has said it."""
        return self.model_dump(mode="json", exclude_unset=True)


class RemoteJobPage(_Part):
    """Some jobs, the newest first."""

    data: tuple[RemoteJob, ...]
    next_cursor: str | None = None
