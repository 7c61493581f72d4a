"""From a request to a stored job, for every route that makes one; and its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, get_args

from starlette.requests import Request
from starlette.responses import Response

from pipelines.errors import InvalidRequest, SluiceError, StoreUnavailable
from serve.api.jobs.inputs import delete_inputs, with_kept_inputs
from serve.api.jobs.job_view import JobView
from serve.api.jobs.owner import jobs_of, owner_in
from serve.api.links import base_url
from serve.api.pictures.picture import NO_PICTURES, Pictures
from serve.api.pictures.uploads import SentBody
from serve.api.planning import pictures_of, plan_of, trace_of, user_in
from serve.api.problems import Problems
from serve.api.schemas import ImageGenerationRequest, parse_request
from serve.api.services import Services
from serve.error_responses import ApiResponse
from serve.generation.plan import Plan
from serve.jobs.job import Job, JobKind, Owner
from serve.jobs.store.job_store import SubmittedJob
from serve.jobs.submission import Submission
from serve.tracing.job_spans import SUBMITTED, job_link

IDEMPOTENCY_KEY = "Idempotency-Key"
MAX_KEY_CHARS = 255
MIN_NAMELESS_KEY_CHARS = 16
"""Of a client without a name, whose keys stand beside those of all others without one."""
REPLAYED = "idempotent-replayed"
WEBHOOK_URL = "webhook_url"
KIND = "kind"
VARIATION: JobKind = "variation"
RESPOND_ASYNC = "respond-async"

KEY_PARAMETER: dict[str, Any] = {
    "name": IDEMPOTENCY_KEY,
    "in": "header",
    "description": "The same key with the same body is the same job, for as long as that is kept."
    f" Where no tenant and no user is named, at least {MIN_NAMELESS_KEY_CHARS} characters, best a"
    " UUID.",
    "schema": {"type": "string", "pattern": "^[ -~]{1,255}$"},
}
"""Documents the header."""

PREFER_PARAMETER: dict[str, Any] = {
    "name": "prefer",
    "in": "header",
    "description": f"`{RESPOND_ASYNC}`: a stored job is made, and answered with 202 at once.",
    "schema": {"type": "string"},
}

REPLAY_HEADERS: dict[str, Any] = {
    REPLAYED: {
        "description": "The job is that of an earlier request with the same key.",
        "schema": {"type": "string", "const": "true"},
    },
}
JOB_HEADERS: dict[str, Any] = {
    "location": {
        "description": "Of the job.",
        "required": True,
        "schema": {"type": "string"},
    },
    **REPLAY_HEADERS,
}


def wants_job(request: Request) -> bool:
    """Whether the client prefers an answer at once to the images (RFC 7240)."""
    given = ",".join(request.headers.getlist("prefer")).split(",")
    return any(each.partition(";")[0].strip().lower() == RESPOND_ASYNC for each in given)


async def submit_body(request: Request, services: Services, sent: SentBody) -> SubmittedJob:
    """Store the generation that the body asks for, which may have a `webhook_url`. Raises as
    `submit`, and for a body that is none."""
    fields, webhook = parse_job(sent)
    return await submit(request, services, body=sent.fields, fields=fields, webhook=webhook)


class JobBody(NamedTuple):
    """What a body asks for, and the URL to be told of its end."""

    fields: ImageGenerationRequest
    webhook: str | None


def parse_job(sent: SentBody) -> JobBody:
    """What a body that may have a `webhook_url` and a `kind` asks for. Raises as `parse_request`;
    of several mistakes all are told."""
    problems, body = Problems(), sent.fields
    webhook, kind = body.get(WEBHOOK_URL), body.get(KIND)
    if webhook is not None and not isinstance(webhook, str):
        problems.add(InvalidRequest(f"{WEBHOOK_URL}: must be a string", param=WEBHOOK_URL))
    if kind is not None and kind not in get_args(JobKind):
        problems.add(
            InvalidRequest(f"{KIND}: must be one of {', '.join(get_args(JobKind))}", param=KIND)
        )
    fields = problems.check(
        lambda: parse_request(
            {name: body[name] for name in body if name not in (WEBHOOK_URL, KIND)},
            sent.uploads,
            is_variation=kind == VARIATION,
        )
    )
    problems.check(lambda: _check_kind(kind, fields.value))
    problems.tell()
    return JobBody(fields.value, webhook if isinstance(webhook, str) else None)


def _check_kind(kind: object, fields: ImageGenerationRequest) -> None:
    """Raises InvalidRequest for a kind that what comes with it does not fit."""
    if kind == "generate" and fields.has_pictures:
        raise InvalidRequest(
            f"{KIND}: 'generate' draws from words alone; write 'edit', or leave the pictures out",
            param=KIND,
        )
    if kind in ("edit", VARIATION) and not fields.has_pictures:
        raise InvalidRequest(
            f"image: needed by the kind {kind!r}, and it is missing", param="image"
        )


def kind_of_job(fields: ImageGenerationRequest) -> JobKind:
    """The kind of a job for `fields`."""
    if fields.is_variation:
        return VARIATION
    return "edit" if fields.has_pictures else "generate"


async def submit(
    request: Request,
    services: Services,
    *,
    body: Mapping[str, Any],
    fields: ImageGenerationRequest,
    webhook: str | None = None,
    webhook_param: str = WEBHOOK_URL,
    dialect: str = "sluice",
    notes: Sequence[str] = (),
) -> SubmittedJob:
    """Store a job for `fields`, which is what the `body` of that dialect means. `notes` come first
    among its warnings; `webhook_param` is what the dialect calls the field.

    Its pictures are kept as files of its own. Raises InvalidRequest and ModelNotFound,
    FileNotStored, ContentPolicyViolation, IdempotencyKeyReused, JobNotFound where there are no
    jobs, Overloaded, StageFailed, StoreUnavailable.
    """
    jobs = jobs_of(services)
    user = user_in(fields)
    owner = owner_in(request, services, user)
    key = idempotency_key_in(request)
    check_key(key, owner, services.settings.tenants.header)
    pictures = await pictures_of(request, services, fields, owner.tenant)
    problems = Problems()
    planned = problems.check(lambda: job_plan(services, fields, pictures))
    if webhook is not None:
        problems.check(lambda: services.webhooks.check(webhook, param=webhook_param))
    problems.tell()
    plan = await with_kept_inputs(planned.value, services.store, owner.tenant)
    trace = trace_of(request)
    submission = Submission(
        body=body,
        plan=replace(plan, warnings=(*notes, *plan.warnings)),
        tenant=owner.tenant,
        user=user,
        kind=kind_of_job(fields),
        dialect=dialect,
        idempotency_key=key,
        webhook=webhook,
        trace_id=trace.trace_id,
        arrived=services.now(),
    )
    try:
        submitted = await jobs.submit(submission)
    except StoreUnavailable:
        raise  # it may be stored all the same
    except SluiceError:
        await delete_inputs(plan, services.store)
        raise
    if submitted.is_replay:  # it has its own
        await delete_inputs(plan, services.store)
    trace.root.links.append(job_link(submitted.job.id, submitted.job.trace_id))
    trace.root.attributes["sluice.outcome"] = SUBMITTED
    return submitted


async def view_of(request: Request, services: Services, job: Job) -> JobView:
    """`job` as clients see it, now."""
    return (await views_of(request, services, [job]))[0]


async def views_of(request: Request, services: Services, jobs: Sequence[Job]) -> list[JobView]:
    """Each of `jobs` as clients see it, in order, with one look at the queue for all."""
    start = base_url(request, services.settings.public_url)
    files_s = services.settings.stages.storage.ttl_s
    places = await jobs_of(services).places(jobs)
    return [
        JobView.of(job, place, start, files_s=files_s)
        for job, place in zip(jobs, places, strict=True)
    ]


async def submitted_response(
    request: Request,
    services: Services,
    submitted: SubmittedJob,
    *,
    replay_status: int = 202,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The answer to a submission: the job, and where it is."""
    view = await view_of(request, services, submitted.job)
    start = base_url(request, services.settings.public_url)
    about = {
        "location": f"{start}/v1/jobs/{view.id}",
        **(headers or {}),
        **replay_headers(submitted),
    }
    status = replay_status if submitted.is_replay else 202
    return ApiResponse(view.as_json(), status, headers=about)


def replay_headers(submitted: SubmittedJob) -> dict[str, str]:
    """What an answer says if the job is an earlier one."""
    return {REPLAYED: "true"} if submitted.is_replay else {}


def job_plan(
    services: Services, fields: ImageGenerationRequest, pictures: Pictures = NO_PICTURES
) -> Plan:
    """What a job for `fields` draws. A job's images are files, and it is followed by its events:
    what asks for other answers is named in the warnings. Raises InvalidRequest, ModelNotFound."""
    notes: list[str] = []
    if fields.response_format in ("b64_json", "file"):
        notes.append("response_format: not used, a job's images are behind their urls")
    notes += [
        f"{name}: not used; follow the job's events, which can show previews"
        for name in ("stream", "partial_images")
        if getattr(fields, name)
    ]
    as_job = {"response_format": "url", "stream": False, "partial_images": 0}
    plan = plan_of(services, fields.model_copy(update=as_job), pictures)
    return replace(plan, warnings=(*plan.warnings, *notes))


def check_key(key: str | None, owner: Owner, tenant_header: str | None) -> None:
    """Raises InvalidRequest for a key that another client may choose as well: that would be
    answered with this one's job, or refused because of it. `tenant_header` is the one that names
    tenants, where a gateway sets it."""
    naming = "name the `user`" if tenant_header is None else f"have the gateway set {tenant_header}"
    if key is not None and not owner.tenant and len(key) < MIN_NAMELESS_KEY_CHARS:
        raise InvalidRequest(
            f"{IDEMPOTENCY_KEY}: too short for a request that names no user, as others without a"
            f" name may choose the same; send at least {MIN_NAMELESS_KEY_CHARS} characters, such as"
            f" a UUID, or {naming}",
            param=IDEMPOTENCY_KEY,
        )


def idempotency_key_in(request: Request) -> str | None:
    """The request's key. Raises InvalidRequest for one that is empty, too long, not printable, or
    given twice."""
    given = request.headers.getlist(IDEMPOTENCY_KEY)
    if not given:
        return None
    key = given[0]
    is_printable = key.isascii() and key.isprintable()
    if len(given) > 1 or not is_printable or not 1 <= len(key) <= MAX_KEY_CHARS:
        raise InvalidRequest(
            f"{IDEMPOTENCY_KEY}: must be 1 to {MAX_KEY_CHARS} printable characters of ASCII, and"
            " given once",
            param=IDEMPOTENCY_KEY,
        )
    return key
