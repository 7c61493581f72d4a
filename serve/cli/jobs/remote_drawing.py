"""`sluice generate` and `edit` with `--url`: a job that is submitted, followed, and cancelled by
Ctrl-C."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

import typer
from rich.console import Console

from serve.api.schemas import ImageData, ImageGenerationRequest
from serve.cli.client import ServerError, SluiceClient, body_of
from serve.cli.jobs.job_client import JobClient
from serve.cli.jobs.own_user import own_user
from serve.cli.jobs.progress import job_progress
from serve.cli.jobs.remote_job import RemoteJob
from serve.jobs.job import JobStatus

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


class DrawnFiles(NamedTuple):
    """The files of a request, in order, and what there is to say of it."""

    images: Sequence[bytes]
    warnings: Sequence[str]


class RemoteDrawing:
    """One request, drawn on the server of `client`; progress is told on `console`."""

    def __init__(self, client: SluiceClient, console: Console, *, user: str | None = None) -> None:
        self._client = client
        self._console = console
        self._user = own_user(user)
        self._jobs = JobClient(client, self._user.name)
        self._key = f"cli-{secrets.token_hex(16)}"

    def draw(self, request: ImageGenerationRequest) -> DrawnFiles:
        """Its files. Raises ServerError, and typer.Exit where Ctrl-C has cancelled it."""
        body, job = body_of(request), None
        try:
            job = self._jobs.submit(body, self._key)
            if job is not None:
                job = self._follow(job.id)
        except KeyboardInterrupt:
            job = self._cancel(body, job)
        if job is None:
            return self._draw_at_once(request)
        warnings = list(job.warnings)
        if self._user.not_kept is not None:
            warnings.append(
                f"who you are could not be kept ({self._user.not_kept}): `sluice jobs` finds this"
                f" one with --user {self._user.name}"
            )
        return DrawnFiles(self._files(job), warnings)

    def _follow(self, job_id: str) -> RemoteJob:
        with job_progress(self._console) as show:
            return self._jobs.follow(job_id, show)

    def _cancel(self, body: dict[str, Any], job: RemoteJob | None) -> RemoteJob:
        """The job if it was over all the same, else typer.Exit; a second Ctrl-C ends this too."""
        self._say("cancelling; Ctrl-C again leaves at once")
        try:
            if job is None:
                # No answer has come yet. The same key has the same job, or makes it now.
                job = self._jobs.submit(body, self._key)
            if job is None:
                raise typer.Exit(INTERRUPTED)
            self._jobs.cancel(job.id)
            job = self._jobs.follow(job.id)
        except ServerError as error:
            raise ServerError(f"not cancelled: {error}") from error
        if job.status is JobStatus.SUCCEEDED:
            self._say(f"{job.id} was finished before that")
            return job
        self._say(f"{job.id} is {job.status}")
        raise typer.Exit(INTERRUPTED)

    def _draw_at_once(self, request: ImageGenerationRequest) -> DrawnFiles:
        """By the synchronous route, of a server that has no jobs."""
        if self._user.is_chosen:
            request = request.model_copy(update={"user": self._user.name})
        with self._console.status(f"waiting for {self._client.base_url}"):
            answer = self._client.generate(request)
            images = [self._client.image_bytes(image) for image in answer.data]
        return DrawnFiles(images, answer.warnings)

    def _files(self, job: RemoteJob) -> list[bytes]:
        if job.status is not JobStatus.SUCCEEDED:
            raise ServerError(failure(job))
        files: list[bytes] = []
        for output in sorted(job.outputs, key=lambda output: output.image):
            file = self._client.image_bytes(ImageData(url=output.url, seed=output.seed))
            if hashlib.sha256(file).hexdigest() != output.sha256:
                raise ServerError(f"{job.id}: the file of image {output.image} came damaged")
            files.append(file)
        return files

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def failure(job: RemoteJob) -> str:
    """Why a job that is over has no images."""
    return f"{job.id} is {job.status}" if job.error is None else job.error.message
