"""How to get each answer that the vendors' routes and those of webhooks have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx

from serve.api.services import Services
from serve.jobs.job import Job, JobError, JobStatus
from serve.jobs.store.delivery_store import Delivery
from tests.serve.api.openapi import job_provocations as jobs
from tests.serve.api.openapi import provocations as generations
from tests.serve.api.openapi.provocations import JSON, PROVOCATIONS, Situation, provokes, services
from tests.serve.webhooks.fakes import finished_job

__all__ = ["PROVOCATIONS"]

HUGGING_FACE = "/hf/text-to-image"
FAL = "/fal/{owner}/{app}"
FAL_RESULT = "/fal/{owner}/{alias}/requests/{request_id}"
FAL_STATUS, FAL_CANCEL = f"{FAL_RESULT}/status", f"{FAL_RESULT}/cancel"
PREDICTIONS, OF_MODEL = "/v1/predictions", "/v1/models/{owner}/{name}/predictions"
PREDICTION = "/v1/predictions/{prediction_id}"
PREDICTION_CANCEL = f"{PREDICTION}/cancel"
DELIVERIES = "/v1/webhooks/deliveries"
REDELIVER = f"{DELIVERIES}/{{delivery_id}}/redeliver"

SUBMITS = (FAL, PREDICTIONS, OF_MODEL)
TASKS = (HUGGING_FACE, generations.HUGGING_FACE_EDIT)
READS = (*TASKS, *SUBMITS)
LOOKS = (FAL_STATUS, FAL_RESULT, FAL_CANCEL, PREDICTION, PREDICTION_CANCEL)
OF_WEBHOOKS = (DELIVERIES, REDELIVER)

# As on the routes of generations

provokes(READS, 408, "body_timeout")(generations.a_slow_body)
provokes(READS, 415, "unsupported_media_type")(generations.an_unknown_encoding)
provokes(READS, 400, "invalid_value")(generations.a_wrong_type)
provokes(READS, 400, "unsupported_feature")(generations.an_adapter)
provokes((*TASKS, PREDICTIONS), 404, "model_not_found")(generations.another_model_in_the_body)
provokes((FAL, OF_MODEL), 404, "model_not_found")(generations.another_name)
provokes(READS, 400, "content_policy_violation")(generations.a_prompt_against_the_policy)
provokes(READS, 404, "file_not_found")(generations.a_picture_that_is_not_there)
provokes(READS, 500, "stage_failed")(generations.a_prompt_that_cannot_be_checked)

provokes(TASKS, 200, "image/png", "image/jpeg", "image/webp")(generations.an_image)
provokes(TASKS, 429, "overloaded", "deadline_unreachable")(generations.the_graph_refuses)
provokes(TASKS, 500, "degenerate_image", "checkpoint_error")(generations.the_graph_refuses)
provokes(TASKS, 503, "not_ready")(generations.a_stage_cannot_start)
provokes(TASKS, 504, "request_timeout")(generations.a_graph_that_hangs)
provokes(TASKS, 500, "internal_error")(generations.a_graph_that_breaks)

# As on the routes of jobs

provokes(FAL, 200, JSON)(jobs.a_job_submitted)
provokes((PREDICTIONS, OF_MODEL), 201, JSON)(jobs.a_job_submitted)
provokes((*SUBMITS, *LOOKS), 404, "job_not_found")(jobs.where_there_are_no_jobs)
provokes(SUBMITS, 429, "overloaded")(jobs.a_full_queue)
provokes((*LOOKS, *OF_WEBHOOKS), 400, "invalid_value")(jobs.a_tenant_with_two_names)
provokes((*SUBMITS, *LOOKS, *OF_WEBHOOKS), 503, "store_unavailable")(jobs.a_store_that_is_away)
provokes((*SUBMITS, *LOOKS, *OF_WEBHOOKS), 500, "internal_error")(jobs.a_store_that_breaks)
provokes((*SUBMITS, *LOOKS, *OF_WEBHOOKS), 504, "request_timeout")(jobs.a_store_that_hangs)


@provokes(SUBMITS, 409, "idempotency_key_reused")
async def a_key_of_another_body(at: Situation) -> httpx.Response:
    client = at.client_of(services())
    headers = {"idempotency-key": f"reused at {at.path}"}
    await at.send(client, headers=headers)
    return await at.send(client, json={"prompt": "a dog"}, headers=headers)


# Their own


@provokes((PREDICTION, PREDICTION_CANCEL), 200, JSON)
async def a_prediction(at: Situation) -> httpx.Response:
    client = at.client_of(services())
    made = await client.post(PREDICTIONS, json={"input": {"prompt": "a cat"}})
    return await at.send(client, name=made.json()["id"])


@provokes(FAL_STATUS, 202, JSON)
@provokes(FAL_CANCEL, 202, JSON)
async def a_request(at: Situation) -> httpx.Response:
    client = at.client_of(services())
    made = await client.post("/fal/sluice/test-model", json={"prompt": "a cat"})
    return await at.send(client, name=made.json()["request_id"])


@provokes((FAL_STATUS, FAL_RESULT), 200, JSON)
async def a_request_that_is_over(at: Situation) -> httpx.Response:
    return await at.ask(_showing(_over()), params={"logs": "true"})


@provokes(FAL_RESULT, 400, "content_policy_violation")
async def a_request_that_was_moderated(at: Situation) -> httpx.Response:
    safety = {"stage": "image", "category": "x", "score": 0.9, "threshold": 0.8, "image_index": 0}
    job = replace(_over(), status=JobStatus.MODERATED, safety=safety)
    return await at.ask(_showing(job))


@provokes(FAL_RESULT, 500, "stage_failed")
async def a_request_that_failed(at: Situation) -> httpx.Response:
    error = JobError(message="it failed", type="server_error", code="degenerate_image")
    return await at.ask(_showing(replace(_over(), status=JobStatus.FAILED, error=error)))


@provokes(DELIVERIES, 200, JSON)
@provokes(REDELIVER, 200, JSON)
async def deliveries(at: Situation) -> httpx.Response:
    delivery = Delivery(
        id="msg_1", job_id="job_1", tenant="", url="https://x/", created_at=1.0, next_at=2.0
    )
    given = services()

    async def one(*_: Any, **__: Any) -> Delivery:
        return delivery

    async def all_of_them(*_: Any, **__: Any) -> tuple[Delivery, ...]:
        return (delivery,)

    given.webhooks.redeliver = one  # type: ignore[method-assign]
    given.webhooks.deliveries = all_of_them  # type: ignore[method-assign]
    return await at.ask(given)


@provokes(REDELIVER, 404, "delivery_not_found")
async def no_delivery(at: Situation) -> httpx.Response:
    return await at.ask(name="none")


def _over() -> Job:
    return replace(
        finished_job(tenant=""),
        dialect="fal",
        started_at=1_700_000_000.5,
        request={"prompt": "a cat", "seed": 1},
    )


def _showing(job: Job) -> Services:
    """Services whose only job is `job`."""
    given = services()

    async def find(*_: Any) -> Job:
        return job

    assert given.jobs is not None
    given.jobs.find = find  # type: ignore[method-assign]
    return given
