"""Jobs as people read them, in the terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from serve.cli.jobs.progress import in_words, roughly, steps
from serve.cli.jobs.remote_job import RemoteJob, RemoteOutput
from serve.jobs.job import JobStatus
from serve.tracing.views.format import moment

_COLOURS = {
    JobStatus.RUNNING: "blue",
    JobStatus.SUCCEEDED: "green",
    JobStatus.FAILED: "red",
    JobStatus.MODERATED: "red",
    JobStatus.EXPIRED: "red",
    JobStatus.CANCELLED: "bright_black",
}


def jobs_table(jobs: Sequence[RemoteJob]) -> Table:
    """One row per job, in the order given."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("job", "status", "steps", "age"):
        table.add_column(name, no_wrap=True, justify="left" if name != "age" else "right")
    # This column alone gives way; its texts stay on their lines all the same.
    table.add_column("prompt")
    for job in jobs:
        table.add_row(
            job.id,
            _status(job),
            steps(job),
            roughly(time.time() - job.created_at),
            Text(job.prompt, no_wrap=True, overflow="ellipsis"),
        )
    return table


def job_view(job: RemoteJob) -> Table:
    """All that there is to say of one."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bright_black")
    table.add_column(overflow="fold")
    for name, value in _facts(job):
        table.add_row(name, value)
    return table


def _status(job: RemoteJob) -> Text:
    return Text(job.status, _COLOURS.get(job.status, ""))


def _facts(job: RemoteJob) -> Iterator[tuple[str, Text]]:
    yield "job", Text(job.id)
    yield "status", _status(job)
    if not job.is_over:
        yield "progress", Text(" ".join(filter(None, (in_words(job), steps(job)))))
        if job.eta is not None and job.eta.reason:
            yield "expected by", Text(job.eta.reason)
    if job.error is not None:
        yield "error", Text(job.error.message, "red")
    yield "model", Text(job.model)
    for name, value in job.request.items():
        if name != "model" and value is not None:
            yield name, Text(" ".join(str(value).split()))
    for name, at in (("created", job.created_at), ("finished", job.finished_at)):
        if at is not None:
            yield name, Text(moment(at))
    if job.started_at is not None and job.finished_at is not None:
        yield "took", Text(f"{job.finished_at - job.started_at:.1f} s")
    for output in job.outputs:
        yield f"image {output.image}", _image(output)
    for name, value in (job.usage or {}).items():
        if value is not None:
            yield name.replace("_", " "), Text(f"{value:g}")
    if job.attempts > 1:
        yield "attempts", Text(str(job.attempts))
    for warning in job.warnings:
        yield "warning", Text(warning, "yellow")
    if job.trace_id:
        yield "trace", Text(job.trace_id)


def _image(output: RemoteOutput) -> Text:
    """Where it is, as long as it is there, and what it is."""
    said = f"{output.url}  {output.width}x{output.height}, seed {output.seed}"
    if output.expires_at is None:
        return Text(said)
    if time.time() >= output.expires_at:
        return Text(f"{said}, its file has expired", "bright_black")
    return Text(f"{said}, kept until {moment(output.expires_at)}")
