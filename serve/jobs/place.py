"""Place: where a job stands, when it should be over, and why then."""

from __future__ import annotations

from typing import Literal, NamedTuple

from deployments.graph.forecast import Forecast
from deployments.graph.listening.events import Phase
from serve.jobs.job import Job, JobStatus
from serve.jobs.progress import QUEUED, fraction_of, progress_of
from serve.jobs.store.job_store import Waiting

Cause = Literal[
    "over",
    "jobs",
    "requests",
    "start",
    "next",
    "queued",
    "encode",
    "denoise",
    "decode",
    "finish",
    "done",
]
"""What a job waits for: other `jobs`, `requests` under way, the `start` of stages that sleep,
nobody (`next`), or itself, in a phase."""

_DOING = {
    QUEUED: "it begins",
    Phase.ENCODE: "its prompt is being read",
    Phase.DECODE: "its image is being decoded",
    Phase.FINISH: "its file is being written",
    Phase.DONE: "it is being stored",
}


class Place(NamedTuple):
    """`position` jobs go first, None unless it waits; `eta_s` seconds from now, None where nobody
    knows; `reason` says what it waits for, which is `cause`."""

    position: int | None
    eta_s: float | None
    reason: str
    cause: Cause


OVER = Place(None, None, "it is over", "over")


def place_of(job: Job, forecast: Forecast, waiting: Waiting) -> Place:
    """Of a job whose request would have this `forecast` if it came now, behind `waiting`."""
    if job.status.is_final:
        return OVER
    if job.status is JobStatus.QUEUED:
        eta_s = None if forecast.eta_s is None else waiting.work_s + forecast.eta_s
        return Place(waiting.jobs, eta_s, *_why_queued(forecast, waiting))
    eta_s = None
    if forecast.eta_s is not None and forecast.queued_s is not None:
        # What waits at the denoisers is behind it, but for what is under way.
        eta_s = (forecast.eta_s - forecast.queued_s) * (1.0 - fraction_of(job.images))
    return Place(None, eta_s, *_why_running(job, forecast))


def _why_queued(forecast: Forecast, waiting: Waiting) -> tuple[str, Cause]:
    if waiting.jobs:
        jobs, go = ("job", "goes") if waiting.jobs == 1 else ("jobs", "go")
        return f"{waiting.jobs} {jobs} {go} first", "jobs"
    if forecast.asleep:
        return _starting(forecast), "start"
    if forecast.queued_s:
        return "requests under way go first", "requests"
    return "it is next", "next"


def _why_running(job: Job, forecast: Forecast) -> tuple[str, Cause]:
    progress = progress_of(job)
    if progress["step"] == 0 and forecast.asleep:
        return _starting(forecast), "start"
    if progress["phase"] == Phase.DENOISE:
        return f"step {progress['step']} of {progress['total']}", "denoise"
    return _DOING[progress["phase"]], progress["phase"]


def _starting(forecast: Forecast) -> str:
    *others, last = forecast.asleep
    return f"{', '.join(others)} and {last} are starting" if others else f"{last} is starting"
