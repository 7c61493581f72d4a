"""Replicate's predictions over jobs, for its client with another `base_url`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pipelines.errors import FileNotStored, InvalidRequest, JobNotFound, UnsupportedFeature
from serve.api.jobs.owner import jobs_of
from serve.api.jobs.submitting import (
    KEY_PARAMETER,
    PREFER_PARAMETER,
    REPLAY_HEADERS,
    RESPOND_ASYNC,
    replay_headers,
    submit,
    wants_job,
)
from serve.api.links import base_url
from serve.api.openapi.failures import KEEPS, OF_JOBS, READS_GENERATION, TAKES_PARAMETERS
from serve.api.openapi.vendor_failures import REPLICATE_ERROR, vendor_failures
from serve.api.pictures.uploads import SentBody, read_json
from serve.api.schemas import PREDICTION_SCHEMA, body_of, parse_request
from serve.api.services import Services, services_of
from serve.api.vendors.job_lookup import job_of_dialect
from serve.api.vendors.prediction import PredictionView
from serve.api.vendors.vendor_models import served_model, with_model
from serve.api.vendors.vendor_route import VendorRoute
from serve.error_responses import ApiResponse
from serve.jobs.job import Job, Owner

DIALECT = "replicate"

_MAX_WAIT_S = 60
# Replicate's client hangs up half a second after the wait that it asked for: answer before.
_ANSWERS_BEFORE_S = 0.2
_WAIT = re.compile(r"wait(?:=(?P<seconds>[^;]*))?")
_COMPLETED = "completed"
_MASK = "mask_image"
_EVENTS = ("start", "output", "logs", _COMPLETED)
_FIELDS = ("input", "version", "webhook", "webhook_completed", "webhook_events_filter", "stream")


class ReplicateRoute(VendorRoute):
    @staticmethod
    def words(status: int, error: Mapping[str, Any]) -> dict[str, Any]:
        return {"title": error["code"], "detail": error["message"], "status": status}


router = APIRouter(tags=["vendors"], route_class=ReplicateRoute)

_CREATED: dict[int | str, dict[str, Any]] = {
    201: {
        "description": "The prediction: over, if `prefer: wait` asked for that and time sufficed.",
        "headers": {
            "preference-applied": {
                "description": f"`wait` or `{RESPOND_ASYNC}`, if one was asked for.",
                "schema": {"type": "string", "enum": ["wait", RESPOND_ASYNC]},
            },
            **REPLAY_HEADERS,
        },
    },
    **vendor_failures(REPLICATE_ERROR, *READS_GENERATION, *KEEPS, JobNotFound, FileNotStored),
}
_CREATES: dict[str, Any] = {
    **body_of(PREDICTION_SCHEMA),
    "parameters": [
        {
            **PREFER_PARAMETER,
            "description": "`wait` or `wait=SECONDS`, 1 to 60: answer when it is over, if by then."
            f" `{RESPOND_ASYNC}`: at once, as without.",
        },
        KEY_PARAMETER,
    ],
}
_LOOKS = vendor_failures(REPLICATE_ERROR, *OF_JOBS, *TAKES_PARAMETERS)


@router.post(
    "/v1/predictions",
    status_code=201,
    response_model=PredictionView,
    responses=_CREATED,
    openapi_extra=_CREATES,
)
async def create_prediction(request: Request) -> Response:
    """A job for `input`, drawn by the model that `version` names, by default the served one."""
    sent = await read_json(request)
    version = sent.fields.get("version")
    if version is not None and not isinstance(version, str):
        raise InvalidRequest("version: must be a string, a model's name", param="version")
    # OWNER/NAME:ID, of which one version is served.
    name = None if version is None else version.partition(":")[0]
    return await _create(request, sent, name)


@router.post(
    "/v1/models/{owner}/{name}/predictions",
    status_code=201,
    response_model=PredictionView,
    responses=_CREATED,
    openapi_extra=_CREATES,
)
async def create_prediction_of_model(request: Request, owner: str, name: str) -> Response:
    """A job for `input`, drawn by the model of that name."""
    return await _create(request, await read_json(request), f"{owner}/{name}")


@router.get("/v1/predictions/{prediction_id}", response_model=PredictionView, responses=_LOOKS)
async def get_prediction(request: Request, prediction_id: str) -> Response:
    """A prediction, as it stands now."""
    services = services_of(request)
    job, _ = await job_of_dialect(request, services, DIALECT, prediction_id)
    return ApiResponse(_view(request, services, job).as_json())


@router.post(
    "/v1/predictions/{prediction_id}/cancel", response_model=PredictionView, responses=_LOOKS
)
async def cancel_prediction(request: Request, prediction_id: str) -> Response:
    """Draw no more of it. One that is over stays as it is."""
    services = services_of(request)
    _, owner = await job_of_dialect(request, services, DIALECT, prediction_id)
    job = await jobs_of(services).cancel(prediction_id, owner)
    return ApiResponse(_view(request, services, job).as_json())


async def _create(request: Request, sent: SentBody, vendor_name: str | None) -> Response:
    services, body = services_of(request), sent.fields
    wait_s = _wait_s(request)
    webhook, param, notes = _webhook(body)
    if body.get("stream"):
        notes.append("stream: not used; `urls.get` says how far it is")
    own = _input(body)
    if vendor_name is not None:
        own = with_model(own, vendor_name, served_model(services, vendor_name))
    submitted = await submit(
        request,
        services,
        body=body,
        fields=parse_request(own, sent.uploads),
        webhook=webhook,
        webhook_param=param,
        dialect=DIALECT,
        notes=notes,
    )
    job, headers = submitted.job, replay_headers(submitted)
    if wait_s is not None:
        # An answer after the request's own time would be a 504.
        wait_s = min(wait_s - _ANSWERS_BEFORE_S, 0.9 * services.settings.limits.request_timeout_s)
        job = await jobs_of(services).wait(job.id, Owner(tenant=job.tenant), wait_s)
        headers["preference-applied"] = "wait"
    elif wants_job(request):
        headers["preference-applied"] = RESPOND_ASYNC
    view = _view(request, services, job, is_answer_to_wait=wait_s is not None)
    return ApiResponse(view.as_json(), 201, headers=headers)


def _input(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the model. Raises InvalidRequest where there are none, or others beside."""
    for name in body:
        if name not in _FIELDS:
            raise InvalidRequest(
                f"{name[:80]}: unknown field; what the model takes goes into `input`",
                param=name[:80],
            )
    given = body.get("input")
    if not isinstance(given, dict):
        raise InvalidRequest("input: must be an object with what the model takes", param="input")
    fields = dict(cast("dict[str, Any]", given))
    if "mask" in fields:  # of Replicate's models, what is white in it is drawn anew
        fields.setdefault(_MASK, fields.pop("mask"))
    return fields


def _view(
    request: Request, services: Services, job: Job, *, is_answer_to_wait: bool = False
) -> PredictionView:
    start = base_url(request, services.settings.public_url)
    return PredictionView.of(job, start, is_answer_to_wait=is_answer_to_wait)


def _wait_s(request: Request) -> float | None:
    """Seconds for which the client would wait; None if it would not. Raises InvalidRequest."""
    for part in ",".join(request.headers.getlist("prefer")).split(","):
        found = _WAIT.fullmatch(part.partition(";")[0].strip().lower())
        if found is None:
            continue
        seconds = found["seconds"]
        if seconds is None:
            return _MAX_WAIT_S
        if re.fullmatch("[0-9]{1,2}", seconds) is None or not 1 <= int(seconds) <= _MAX_WAIT_S:
            raise InvalidRequest(
                f"prefer: wait must be 1 to {_MAX_WAIT_S} seconds, got {seconds[:20]!r}",
                param="prefer",
            )
        return int(seconds)
    return None


def _webhook(body: Mapping[str, Any]) -> tuple[str | None, str, list[str]]:
    """The URL to be told of the end, the name of its field, and what is to be said about it."""
    given = {
        name: body[name] for name in ("webhook", "webhook_completed") if body.get(name) is not None
    }
    for name, url in given.items():
        if not isinstance(url, str):
            raise InvalidRequest(f"{name}: must be a string", param=name)
    if len(set(given.values())) > 1:
        raise InvalidRequest(
            "webhook_completed: contradicts webhook; one URL is told of the end",
            param="webhook_completed",
        )
    param = next(iter(given), "webhook")
    wanted = _events(body.get("webhook_events_filter"))
    if wanted is not None and given and _COMPLETED not in wanted:
        raise UnsupportedFeature(
            f"webhook_events_filter: only `{_COMPLETED}` is sent; add it, or leave the webhook out",
            param="webhook_events_filter",
        )
    others = [name for name in wanted or _EVENTS if name != _COMPLETED]
    notes: list[str] = []
    if param == "webhook" and given and others:
        notes.append(f"webhook_events_filter: only `{_COMPLETED}` is sent, not {', '.join(others)}")
    return given.get(param), param, notes


def _events(value: object) -> Sequence[str] | None:
    if value is None:
        return None
    events = cast("list[object]", value) if isinstance(value, list) else [value]
    if not events or not all(event in _EVENTS for event in events):
        raise InvalidRequest(
            f"webhook_events_filter: must be a list of {', '.join(_EVENTS)}",
            param="webhook_events_filter",
        )
    return [str(event) for event in events]
