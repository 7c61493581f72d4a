"""fal's queue over jobs, for its client with FAL_QUEUE_RUN_HOST=HOST:PORT/fal.

The client wants TLS. An application is OWNER/ALIAS, which may be followed by a path; together they
name the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from pipelines.errors import (
    ContentPolicyViolation,
    FileNotStored,
    InvalidRequest,
    JobNotFound,
    StageFailed,
)
from serve.api.jobs.owner import jobs_of
from serve.api.jobs.submitting import (
    KEY_PARAMETER,
    REPLAY_HEADERS,
    replay_headers,
    submit,
)
from serve.api.links import base_url
from serve.api.openapi.failures import KEEPS, OF_JOBS, READS_GENERATION, TAKES_PARAMETERS
from serve.api.openapi.vendor_failures import FAL_ERROR, vendor_failures
from serve.api.pictures.uploads import read_json
from serve.api.schemas import GENERATION_BODY, parse_request
from serve.api.services import services_of
from serve.api.vendors.fal_request import (
    FalLinks,
    FalQueued,
    FalResult,
    FalStatusView,
    status_of,
)
from serve.api.vendors.job_lookup import job_of_dialect
from serve.api.vendors.vendor_models import served_model, with_model
from serve.api.vendors.vendor_route import VendorRoute
from serve.error_responses import ApiResponse
from serve.jobs.job import Job, JobStatus

DIALECT = "fal"

_WEBHOOK = "fal_webhook"
_PRIORITY = "x-fal-queue-priority"
_PRIORITIES = {"normal": None, "low": -1}
_UNUSED_HEADERS = {
    "x-fal-request-timeout": "not used; write `deadline_ms`, in which the images are wanted",
    "x-fal-runner-hint": "not used; this server finds the place itself",
}


class FalRoute(VendorRoute):
    @staticmethod
    def words(status: int, error: Mapping[str, Any]) -> dict[str, Any]:
        return {"detail": error["message"], "error_type": error["code"]}


class FalCancelled(BaseModel):
    status: Literal["CANCELLATION_REQUESTED"] = "CANCELLATION_REQUESTED"


router = APIRouter(tags=["vendors"], route_class=FalRoute)

_SUBMITS: dict[str, Any] = {
    **GENERATION_BODY,
    "parameters": [
        KEY_PARAMETER,
        {
            "name": _PRIORITY,
            "in": "header",
            "description": "`low` is a `priority` of -1.",
            "schema": {"type": "string", "enum": list(_PRIORITIES)},
        },
    ],
}
_LOOKS = vendor_failures(FAL_ERROR, *OF_JOBS, *TAKES_PARAMETERS)


@router.get(
    "/fal/{owner}/{alias}/requests/{request_id}/status",
    response_model=FalStatusView,
    responses={
        202: {"model": FalStatusView, "description": "It is not over."},
        **_LOOKS,
    },
)
async def request_status(
    request: Request, owner: str, alias: str, request_id: str, logs: bool = False
) -> Response:
    """Where a request stands: 200 when it is over, whatever became of it."""
    services = services_of(request)
    job, _ = await job_of_dialect(request, services, DIALECT, request_id)
    place = await jobs_of(services).place(job)
    start = base_url(request, services.settings.public_url)
    view = FalStatusView.of(job, place, f"{owner}/{alias}", start, with_logs=logs)
    body = view.model_dump(mode="json")
    return ApiResponse(body, 200 if job.status.is_final else 202)


@router.get(
    "/fal/{owner}/{alias}/requests/{request_id}",
    response_model=FalResult,
    responses=vendor_failures(
        FAL_ERROR, *OF_JOBS, *TAKES_PARAMETERS, ContentPolicyViolation, StageFailed
    ),
)
async def request_result(request: Request, owner: str, alias: str, request_id: str) -> Response:
    """What a request has drawn, or the error that ended it; 400 for one that is not over."""
    services = services_of(request)
    job, _ = await job_of_dialect(request, services, DIALECT, request_id)
    _check_succeeded(job)
    start = base_url(request, services.settings.public_url)
    return ApiResponse(FalResult.of(job, start).model_dump(mode="json"))


@router.put(
    "/fal/{owner}/{alias}/requests/{request_id}/cancel",
    status_code=202,
    response_model=FalCancelled,
    responses=_LOOKS,
)
async def cancel_request(request: Request, owner: str, alias: str, request_id: str) -> Response:
    """Draw no more of it; 400 for one that is over."""
    services = services_of(request)
    job, whose = await job_of_dialect(request, services, DIALECT, request_id)
    if job.status.is_final:
        raise InvalidRequest("the request is over already", param="request_id")
    await jobs_of(services).cancel(request_id, whose)
    return ApiResponse(FalCancelled().model_dump(mode="json"), 202)


# The last, as its path fits those of the others.
@router.post(
    "/fal/{owner}/{app:path}",
    response_model=FalQueued,
    responses={
        200: {"description": "It is stored, and drawn in its turn.", "headers": REPLAY_HEADERS},
        **vendor_failures(FAL_ERROR, *READS_GENERATION, *KEEPS, JobNotFound, FileNotStored),
    },
    openapi_extra=_SUBMITS,
)
async def submit_request(
    request: Request,
    owner: str,
    app: str,
    fal_webhook: Annotated[
        str | None, Query(description="A URL to be told when it is over.")
    ] = None,
) -> Response:
    """A job for the arguments in the body, drawn by the model that OWNER/APP names; `app` may have
    slashes."""
    alias = app.partition("/")[0]
    return await _submit(request, f"{owner}/{alias}", f"{owner}/{app}", fal_webhook)


async def _submit(request: Request, app: str, model: str, webhook: str | None) -> Response:
    services = services_of(request)
    sent = await read_json(request)
    arguments = sent.fields
    own = with_model(arguments, model, served_model(services, model))
    notes = [f"{name}: {why}" for name, why in _UNUSED_HEADERS.items() if name in request.headers]
    if (priority := _priority(request)) is not None:
        own.setdefault("priority", priority)
    submitted = await submit(
        request,
        services,
        body={"app": model, "webhook": webhook, "arguments": arguments},
        fields=parse_request(own, sent.uploads),
        webhook=webhook,
        webhook_param=_WEBHOOK,
        dialect=DIALECT,
        notes=notes,
    )
    job = submitted.job
    place = await jobs_of(services).place(job)
    start = base_url(request, services.settings.public_url)
    view = FalQueued(
        **FalLinks.to(job.id, app, start).model_dump(),
        status=status_of(job),
        queue_position=place.position or 0,
        warnings=list(job.warnings),
    )
    return ApiResponse(view.model_dump(mode="json"), headers=replay_headers(submitted))


def _priority(request: Request) -> int | None:
    given = request.headers.get(_PRIORITY, "normal").lower()
    if given not in _PRIORITIES:
        raise InvalidRequest(
            f"{_PRIORITY}: must be one of {', '.join(_PRIORITIES)}", param=_PRIORITY
        )
    return _PRIORITIES[given]


def _check_succeeded(job: Job) -> None:
    """Raises InvalidRequest, ContentPolicyViolation or StageFailed for a job without a result.

    What another request might mend is a 500 all the same: this one is over, and clients would ask
    for it again and again.
    """
    if job.status is JobStatus.SUCCEEDED:
        return
    if not job.status.is_final:
        raise InvalidRequest("the request is still in progress", param="request_id")
    if job.status is JobStatus.CANCELLED:
        raise InvalidRequest("the request was cancelled", param="request_id")
    message = "it failed for an unknown reason" if job.error is None else job.error.message
    if job.safety is not None:
        raise ContentPolicyViolation(message, **job.safety)
    raise StageFailed(message, stage="job")
