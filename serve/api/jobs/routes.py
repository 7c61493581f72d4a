"""`/v1/jobs`: submit, get, list, cancel, keep and delete jobs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from pipelines.errors import FileNotStored, InvalidRequest, JobConflict, JobNotFound, StageFailed
from serve.api.jobs.job_view import JobList, JobView
from serve.api.jobs.owner import User, jobs_of, nameless, owner_in
from serve.api.jobs.submitting import (
    JOB_HEADERS,
    KEY_PARAMETER,
    submit_body,
    submitted_response,
    view_of,
    views_of,
)
from serve.api.openapi.failures import (
    KEEPS,
    OF_JOBS,
    READS_GENERATION,
    TAKES_PARAMETERS,
    failures,
)
from serve.api.pictures.uploads import read_body
from serve.api.schemas import JOB_BODY
from serve.api.services import services_of
from serve.error_responses import ApiResponse
from serve.jobs.job import JobStatus
from serve.jobs.service import MAX_PAGE

router = APIRouter(tags=["jobs"])

_SUBMITTED: dict[str, Any] = {"model": JobView, "headers": JOB_HEADERS}

_LOOKS = failures(*OF_JOBS, *TAKES_PARAMETERS)


@router.post(
    "/v1/jobs",
    status_code=202,
    response_model=JobView,
    responses={
        200: {**_SUBMITTED, "description": "The job that this idempotency key has had before."},
        202: {**_SUBMITTED, "description": "The job is stored, and run in its turn."},
        **failures(*READS_GENERATION, *KEEPS, JobNotFound, FileNotStored),
    },
    openapi_extra={**JOB_BODY, "parameters": [KEY_PARAMETER]},
)
async def submit_job(request: Request) -> Response:
    """Store a generation as a job: it is drawn whether or not anybody waits for it."""
    services = services_of(request)
    submitted = await submit_body(request, services, await read_body(request))
    return await submitted_response(request, services, submitted, replay_status=200)


@router.get("/v1/jobs", response_model=JobList, responses=_LOOKS)
async def list_jobs(
    request: Request,
    cursor: Annotated[str | None, Query(description="`next_cursor` of another page.")] = None,
    status: Annotated[
        str | None, Query(description="Only jobs of these statuses, separated by commas.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20,
    user: User = None,
) -> Response:
    """The owner's jobs, the newest first; none where it has no name."""
    services = services_of(request)
    owner = owner_in(request, services, user)
    page = await jobs_of(services).page(
        owner,
        statuses=None if status is None else _statuses(status),
        cursor=cursor,
        limit=limit,
    )
    jobs = await views_of(request, services, page.jobs)
    listed = JobList(
        data=jobs, next_cursor=page.cursor, warnings=[] if owner.tenant else [nameless(services)]
    )
    return ApiResponse(listed.model_dump(mode="json"))


@router.get("/v1/jobs/{job_id}", response_model=JobView, responses=_LOOKS)
async def get_job(request: Request, job_id: str, user: User = None) -> Response:
    """A job, as it stands now."""
    services = services_of(request)
    job = await jobs_of(services).get(job_id, owner_in(request, services, user))
    return ApiResponse((await view_of(request, services, job)).as_json())


@router.post("/v1/jobs/{job_id}/cancel", response_model=JobView, responses=_LOOKS)
async def cancel_job(request: Request, job_id: str, user: User = None) -> Response:
    """Draw no more of it; the images that are finished stay. A job that is over stays as it is."""
    services = services_of(request)
    job = await jobs_of(services).cancel(job_id, owner_in(request, services, user))
    return ApiResponse((await view_of(request, services, job)).as_json())


@router.post("/v1/jobs/{job_id}/keep", response_model=JobView, responses=_LOOKS)
async def keep_job(request: Request, job_id: str, user: User = None) -> Response:
    """Stop here and finish the images as their previews show them. Else as cancel."""
    services = services_of(request)
    job = await jobs_of(services).keep(job_id, owner_in(request, services, user))
    return ApiResponse((await view_of(request, services, job)).as_json())


@router.delete(
    "/v1/jobs/{job_id}",
    status_code=204,
    response_class=Response,
    responses=failures(*OF_JOBS, *TAKES_PARAMETERS, JobConflict, StageFailed),
)
async def delete_job(request: Request, job_id: str, user: User = None) -> Response:
    """Forget a job that is over, and its files."""
    services = services_of(request)
    await jobs_of(services).delete(job_id, owner_in(request, services, user))
    return Response(status_code=204)


def _statuses(text: str) -> frozenset[JobStatus]:
    known = [str(status) for status in JobStatus]
    named = [name.strip() for name in text.split(",")]
    for name in named:
        if name not in known:
            said = f"{name[:40]!r} is no status of a job" if name else "names no status"
            raise InvalidRequest(
                f"status: {said}; name one of {', '.join(known)}, or several with commas between"
                " them, or leave it out for all",
                param="status",
            )
    return frozenset(map(JobStatus, named))
