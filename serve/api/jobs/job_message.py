"""What a webhook says: that a job is over, and the job."""

from __future__ import annotations

from typing import Any

from serve.api.iso_time import iso_time
from serve.api.jobs.job_view import JobView
from serve.jobs.job import Job
from serve.jobs.place import OVER


def job_message(job: Job, links_begin: str, *, files_s: float) -> dict[str, Any]:
    """The body, as Standard Webhooks has it, for a job that is over; files are kept `files_s`."""
    return {
        "type": f"job.{job.status}",
        "timestamp": iso_time(job.finished_at or job.created_at),
        "data": JobView.of(job, OVER, links_begin, files_s=files_s).as_json(),
    }
