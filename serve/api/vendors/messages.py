"""What webhooks say of a job that is over, in the words of the API that it came by."""

from __future__ import annotations

from typing import Any

from serve.api.jobs.job_message import job_message
from serve.api.vendors.fal_request import fal_message
from serve.api.vendors.prediction import PredictionView
from serve.jobs.job import Job


def message_of(job: Job, public_url: str | None, *, files_s: float) -> dict[str, Any]:
    """The body of a message. Without a `public_url`, links in it are relative; they lead to files
    that are kept for `files_s`."""
    links_begin = (public_url or "").rstrip("/")
    match job.dialect:
        case "replicate":
            return PredictionView.of(job, links_begin).as_json()
        case "fal":
            return fal_message(job, links_begin)
        case _:
            return job_message(job, links_begin, files_s=files_s)
