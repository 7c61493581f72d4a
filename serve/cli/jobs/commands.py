"""`sluice jobs`: the jobs that one user has on a server."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console

from serve.cli.client import ServerError, SluiceClient
from serve.cli.jobs.job_client import JobClient
from serve.cli.jobs.own_user import VARIABLE, own_user
from serve.cli.jobs.progress import job_progress
from serve.cli.jobs.remote_drawing import INTERRUPTED, failure
from serve.cli.jobs.remote_job import RemoteJob
from serve.cli.jobs.tables import job_view, jobs_table
from serve.cli.tables import console
from serve.jobs.job import JobStatus

HERE = "http://localhost:8000"

jobs = typer.Typer(help="List, watch and steer your jobs on a server.", no_args_is_help=True)

Url = Annotated[str, typer.Option(help="The server; may end in /v1.")]
User = Annotated[
    str | None,
    typer.Option(help=f"Whose jobs; by default ${VARIABLE}, or a name kept for you."),
]
_Json = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]
_Id = Annotated[str, typer.Argument(help="As `sluice jobs list` names it.", metavar="JOB")]


@jobs.command(name="list")
def list_jobs(
    url: Url = HERE,
    user: User = None,
    status: Annotated[
        list[str] | None, typer.Option(help="Only these, such as queued,running.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="As many of the newest.")] = 20,
    as_json: _Json = False,
) -> None:
    """List your latest jobs, the newest first."""
    statuses = [_status(word) for each in status or [] for word in each.split(",")]
    with _client(url, user) as client:
        found = client.latest(statuses, limit=limit)
    if as_json:
        _print_json({"object": "list", "data": [job.as_json() for job in found]})
    elif found:
        console().print(jobs_table(found))
    else:
        console().print("No job of yours is like this." if statuses else "No job of yours yet.")


@jobs.command()
def show(job: _Id, url: Url = HERE, user: User = None, as_json: _Json = False) -> None:
    """Show all of a job: what was asked for, how far it is, and its images."""
    with _client(url, user) as client:
        _print_job(client.get(job), as_json=as_json)


@jobs.command()
def watch(job: _Id, url: Url = HERE, user: User = None, as_json: _Json = False) -> None:
    """Follow a job to its end. Exit code 1 if it has no images then; Ctrl-C only stops watching."""
    with _client(url, user) as client:
        try:
            last = _watch(client, job, as_json=as_json)
        except KeyboardInterrupt:
            _err().print(f"{job} goes on", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(INTERRUPTED) from None
    if not as_json:
        console().print(job_view(last))
    if last.status is not JobStatus.SUCCEEDED:
        raise ServerError(failure(last))


@jobs.command()
def cancel(job: _Id, url: Url = HERE, user: User = None, as_json: _Json = False) -> None:
    """Stop a job; nothing of it is kept."""
    with _client(url, user) as client:
        _report(client.cancel(job), "it is being cancelled", as_json=as_json)


@jobs.command()
def keep(job: _Id, url: Url = HERE, user: User = None, as_json: _Json = False) -> None:
    """Finish a job now, from the images as far as they are."""
    with _client(url, user) as client:
        _report(client.keep(job), "it is being finished", as_json=as_json)


@jobs.command()
def delete(job: _Id, url: Url = HERE, user: User = None) -> None:
    """Delete a job that is over, and its files."""
    with _client(url, user) as client:
        client.delete(job)
    console().print(f"{job} is deleted", markup=False, highlight=False)


def _watch(client: JobClient, job_id: str, *, as_json: bool) -> RemoteJob:
    """Its last state."""
    with job_progress(_err()) as show_progress:
        return client.follow(job_id, _print_state if as_json else show_progress)


def _report(job: RemoteJob, under_way: str, *, as_json: bool) -> None:
    if as_json:
        _print_json(job.as_json())
    else:
        words = f"it is {job.status}" if job.is_over else under_way
        console().print(f"{job.id}: {words}", markup=False, highlight=False)


def _print_state(job: RemoteJob) -> None:
    _print_json(job.as_json())


def _print_job(job: RemoteJob, *, as_json: bool) -> None:
    if as_json:
        _print_json(job.as_json())
    else:
        console().print(job_view(job))


def _print_json(value: dict[str, Any]) -> None:
    """One line, at once, whoever reads it."""
    print(json.dumps(value), flush=True)


def _status(word: str) -> JobStatus:
    try:
        return JobStatus(word.strip().lower())
    except ValueError:
        known = ", ".join(JobStatus)
        raise typer.BadParameter(f"{word!r} is no status; there are {known}") from None


def _err() -> Console:
    return Console(stderr=True)


@contextmanager
def _client(url: str, user: str | None) -> Generator[JobClient]:
    own = own_user(user)
    if own.not_kept is not None:
        _err().print(
            f"warning: who you are could not be kept ({own.not_kept}): use --user",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    with SluiceClient(url) as client:
        yield JobClient(client, own.name)
