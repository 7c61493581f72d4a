"""JobClient: the jobs of one user on a server; what to do when a connection breaks is decided here.

A submit is sent again under its key, so that it is one job. An event stream that breaks is taken up
where it ended; where none can be had the job is asked about every second.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from serve.cli.client import ServerError, SluiceClient
from serve.cli.jobs.remote_job import RemoteJob, RemoteJobPage
from serve.jobs.job import JobStatus

Model = TypeVar("Model", bound=BaseModel)

_JOBS = "/v1/jobs"
_SUBMITS = 3
_POLL_S = 1.0
_LONGEST_PAUSE_S = 5.0
_MOST_MISSES = 30
"""Times that a server is asked in vain for a job that it has; with the pauses, two minutes: it may
be starting anew."""
_PAGE = 100


class JobClient:
    """Of `user`, as whom jobs are submitted and asked about; `sleep` is for tests."""

    def __init__(
        self, client: SluiceClient, user: str, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._client = client
        self._user = user
        self._sleep = sleep

    def submit(self, body: Mapping[str, Any], key: str) -> RemoteJob | None:
        """The job under the idempotency key `key`; None from a server that has no jobs.

        Raises ServerError.
        """
        sent = {"user": self._user, **body}
        for attempt in range(1, _SUBMITS + 1):
            try:
                answer = self._client.send(
                    "POST", _JOBS, json=sent, headers={"idempotency-key": key}
                )
                return _read(RemoteJob, answer.content)
            except ServerError as error:
                if _has_no_jobs(error):
                    return None
                if not error.is_passing or attempt == _SUBMITS:
                    raise
                self._sleep(_pause_s(attempt))
        raise AssertionError("the last attempt has returned or raised")

    def get(self, job_id: str) -> RemoteJob:
        """Raises ServerError."""
        answer = self._client.send("GET", _path(job_id), params=self._owner)
        return _read(RemoteJob, answer.content)

    def latest(self, statuses: Iterable[JobStatus], *, limit: int) -> list[RemoteJob]:
        """Up to `limit` jobs, the newest first; without `statuses`, of all. Raises ServerError."""
        found: list[RemoteJob] = []
        query = {**self._owner, "limit": str(min(limit, _PAGE))}
        if wanted := ",".join(statuses):
            query["status"] = wanted
        while len(found) < limit:
            answer = self._client.send("GET", _JOBS, params=query)
            page = _read(RemoteJobPage, answer.content)
            found += page.data
            if page.next_cursor is None:
                break
            query["cursor"] = page.next_cursor
        return found[:limit]

    def cancel(self, job_id: str) -> RemoteJob:
        """Ask for its end. Raises ServerError."""
        answer = self._client.send("POST", f"{_path(job_id)}/cancel", params=self._owner)
        return _read(RemoteJob, answer.content)

    def keep(self, job_id: str) -> RemoteJob:
        """Ask to finish it now, from what there is. Raises ServerError."""
        answer = self._client.send("POST", f"{_path(job_id)}/keep", params=self._owner)
        return _read(RemoteJob, answer.content)

    def delete(self, job_id: str) -> None:
        """Forget it, and its files. Raises ServerError."""
        self._client.send("DELETE", _path(job_id), params=self._owner)

    def follow(self, job_id: str, show: Callable[[RemoteJob], None] = lambda _: None) -> RemoteJob:
        """The job once it is over; `show` is called whenever it has changed.

        Raises ServerError when the job is gone, or the server for minutes.
        """
        job = self.get(job_id)
        show(job)
        last, misses, has_stream = 0, 0, True
        while not job.is_over:
            if has_stream:
                try:
                    for number, changed in self._streamed(job, after=last):
                        last, job, misses = number, changed, 0
                        show(job)
                        if job.is_over:
                            return job
                except ServerError as error:
                    has_stream = error.is_passing
            # The stream has broken off, or there is none.
            self._sleep(_pause_s(misses) if has_stream else _POLL_S)
            try:
                job, misses = self.get(job_id), 0
            except ServerError as error:
                misses += 1
                if not error.is_passing:
                    raise
                if misses == _MOST_MISSES:
                    raise ServerError(f"{error}; the job may go on there: {job_id}") from error
            else:
                show(job)
        return job

    def _streamed(self, job: RemoteJob, *, after: int) -> Generator[tuple[int, RemoteJob]]:
        """The job after each event above number `after`, with the number of the latest."""
        headers = {"last-event-id": str(after)} if after else {}
        path = f"{_path(job.id)}/events"
        with self._client.events(path, params=self._owner, headers=headers) as source:
            for event in source.iter_sse():
                if not event.data:
                    # A comment that keeps the connection open; places in the queue have no event.
                    if job.status is JobStatus.QUEUED:
                        job = self.get(job.id)
                        yield after, job
                    continue
                if event.id.isdecimal():
                    after = int(event.id)
                try:
                    job = job.after(json.loads(event.data))
                except ValueError as error:
                    raise ServerError(f"an event of {job.id} is not as it should be") from error
                yield after, job

    @property
    def _owner(self) -> dict[str, str]:
        return {"user": self._user}


def _path(job_id: str) -> str:
    return f"{_JOBS}/{quote(job_id, safe='')}"


def _has_no_jobs(error: ServerError) -> bool:
    """Whether the route is not there, rather than what the body asks for."""
    return error.status == 405 or (error.status == 404 and error.code != "model_not_found")


def _pause_s(misses: int) -> float:
    return min(0.5 * 2**misses, _LONGEST_PAUSE_S)


def _read(kind: type[Model], content: bytes) -> Model:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise ServerError(f"this is not a Sluice server that has jobs: {error}") from error
