"""Jobs as JSON text, as every store writes them, and back."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from serve.jobs.job import (
    ImageProgress,
    Job,
    JobAction,
    JobError,
    JobOutput,
    JobStatus,
    JobUsage,
)


def to_json(value: Any) -> str:
    """Compact JSON, all ASCII."""
    return json.dumps(value, separators=(",", ":"))


def job_to_json(job: Job) -> str:
    return json.dumps(job, separators=(",", ":"), default=_fields)


def _fields(value: Any) -> dict[str, Any]:
    """Of a dataclass. Not by `asdict`: that copies all below it, in half of a submit's time."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


def job_from_json(text: str | bytes) -> Job:
    """Raises ValueError, KeyError or TypeError for what `job_to_json` has not written."""
    data: dict[str, Any] = json.loads(text)
    action = data["pending_action"]
    data |= {
        "status": JobStatus(data["status"]),
        "images": tuple(ImageProgress(**image) for image in data["images"]),
        "outputs": tuple(JobOutput(**output) for output in data["outputs"]),
        "usage": None if data["usage"] is None else JobUsage(**data["usage"]),
        "error": None if data["error"] is None else JobError(**data["error"]),
        "warnings": tuple(data["warnings"]),
        "pending_action": None if action is None else JobAction(action),
    }
    return Job(**data)
