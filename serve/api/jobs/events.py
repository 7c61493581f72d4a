"""`GET /v1/jobs/{id}/events`: what happens to a job, as server-sent events that can be resumed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from pipelines.errors import InvalidRequest, JobNotFound, StoreUnavailable
from serve.api.event_stream import STREAM_HEADERS, ServerSentEvent, event_stream, stream_content
from serve.api.jobs.job_view import output_view, stored_output
from serve.api.jobs.owner import User, jobs_of, owner_in
from serve.api.jobs.submitting import view_of
from serve.api.links import base_url
from serve.api.openapi.failures import OF_JOBS, TAKES_PARAMETERS, failures
from serve.api.services import Services, services_of
from serve.jobs.job import JobEvent, Owner
from serve.jobs.service import LAST_EVENT_ID

logger = logging.getLogger("ray.serve")

router = APIRouter(tags=["jobs"])

_STREAM: dict[str, Any] = {
    "description": "`job.queued`, `job.running`, `job.progress`, `job.image`, and `job.` with the"
    " final status, which is the last; `job.preview` without an id.",
    "content": stream_content("One of many."),
    "headers": {name: {"required": True, **about} for name, about in STREAM_HEADERS.items()},
}
_RESUMES: dict[str, Any] = {
    "parameters": [
        {
            "name": LAST_EVENT_ID,
            "in": "header",
            "description": "Go on after this event; takes precedence over `after`.",
            "schema": {"type": "string", "pattern": "^[0-9]+$"},
        }
    ]
}


@router.get(
    "/v1/jobs/{job_id}/events",
    response_class=Response,
    responses={200: _STREAM, **failures(*OF_JOBS, *TAKES_PARAMETERS)},
    openapi_extra=_RESUMES,
)
async def job_events(
    request: Request,
    job_id: str,
    after: Annotated[int, Query(ge=0, description="Go on after this event.")] = 0,
    previews: Annotated[bool, Query(description="Also show what images will be.")] = False,
    user: User = None,
) -> Response:
    """All that happens to the job, from its beginning or from where it was left, to its end."""
    services = services_of(request)
    jobs, owner = jobs_of(services), owner_in(request, services, user)
    after = _last_event_id(request, after)
    await jobs.check_events(job_id, owner, after=after)
    return event_stream(
        _events(request, services, job_id, owner, after=after, previews=previews),
        request,
        resumable=True,
    )


async def _events(
    request: Request,
    services: Services,
    job_id: str,
    owner: Owner,
    *,
    after: int,
    previews: bool,
) -> AsyncIterator[ServerSentEvent]:
    events = jobs_of(services).events(job_id, owner, after=after, previews=previews)
    try:
        async for event in events:
            data = await _data(request, services, owner, event)
            yield ServerSentEvent(event.type, data, event.number)
    finally:
        await events.aclose()


async def _data(
    request: Request, services: Services, owner: Owner, event: JobEvent
) -> dict[str, Any]:
    """An event's JSON. With a change of status comes the job, as it is by now."""
    data = {"type": event.type, "job_id": event.job_id, "at": event.at, **event.data}
    match event.type:
        case "job.progress" | "job.preview":
            return data
        case "job.image":
            start = base_url(request, services.settings.public_url)
            output = output_view(stored_output(event.data["output"]), start)
            return {**data, "output": output.model_dump(mode="json")}
        case _:
            while True:
                try:
                    job = await jobs_of(services).get(event.job_id, owner)
                    view = await view_of(request, services, job)
                except JobNotFound:  # deleted by now
                    return data
                except StoreUnavailable as error:  # the events themselves wait for it too
                    logger.warning("job %s: its events wait: %s", event.job_id, error)
                    await asyncio.sleep(error.retry_after_s)
                else:
                    return {**data, "job": view.as_json()}


def _last_event_id(request: Request, after: int) -> int:
    given = request.headers.get(LAST_EVENT_ID)
    if given is None:
        return after
    if not (given.isascii() and given.isdigit() and len(given) < 16):
        raise InvalidRequest(
            f"{LAST_EVENT_ID}: must be the id of an event, a number; got {given[:40]!r}",
            param=LAST_EVENT_ID,
        )
    return int(given)
