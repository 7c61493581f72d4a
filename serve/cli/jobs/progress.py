"""How far a job is, on stderr: a bar in a terminal, else a line whenever there is news."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from serve.cli.jobs.remote_job import RemoteJob
from serve.jobs.job import JobStatus

Show = Callable[[RemoteJob], None]

_PHASES = {
    "encode": "reading the prompt",
    "denoise": "drawing",
    "decode": "decoding",
    "finish": "finishing",
    "done": "finishing",
}
_BAR_CHARS = 24
_QUARTERS = 4
"""Of the steps: lines say no more."""


@contextmanager
def job_progress(console: Console) -> Generator[Show]:
    """Shows the jobs that it is called with, all of them states of one."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    # Gone at the end; what came of the job is said then. Not as wide as the terminal: the ^C that
    # it echoes would break the line, and half of it would stay.
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=_BAR_CHARS),
        TextColumn("{task.fields[count]}", markup=False),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as progress:
        yield _Bar(progress)


def in_words(job: RemoteJob) -> str:
    """What is being done about it: `waiting, 3 before it, about 12 s`."""
    if job.is_over:
        return job.status
    words = "waiting"
    if job.status is JobStatus.RUNNING:
        words = "drawing" if job.progress is None else _PHASES.get(job.progress.phase, "waiting")
    if job.pending_action is not None:
        asked = "cancelled" if job.pending_action == "cancel" else "finished now"
        words += f", to be {asked}"
    if job.status is JobStatus.QUEUED and job.queue is not None:
        first = job.queue.position
        words += f", {first} before it" if first else ", it is next"
    if job.eta is not None:
        words += f", about {roughly(job.eta.ms / 1e3)}"
    return words


def roughly(seconds: float) -> str:
    """`12 s`, `3 min`, `5 h`, `2 d`."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def steps(job: RemoteJob) -> str:
    """`3/28`, of all its images together; "" before anything is known."""
    if job.progress is None or not job.progress.total:
        return ""
    return f"{job.progress.step}/{job.progress.total}"


class _Bar:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def __call__(self, job: RemoteJob) -> None:
        if self._task is None:
            self._task = self._progress.add_task("", total=None, count="")
        known = job.progress if job.status is JobStatus.RUNNING else None
        self._progress.update(
            self._task,
            description=in_words(job),
            completed=0 if known is None else known.step,
            total=None if known is None else known.total or None,
            count=steps(job),
        )


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: tuple[object, ...] | None = None

    def __call__(self, job: RemoteJob) -> None:
        news = (job.status, job.pending_action, job.progress and job.progress.phase, _quarter(job))
        if news != self._last:
            self._last = news
            line = " ".join(filter(None, (f"{job.id}:", in_words(job), steps(job))))
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _quarter(job: RemoteJob) -> int:
    if job.progress is None or not job.progress.total:
        return 0
    return _QUARTERS * job.progress.step // job.progress.total
