"""How to get each answer that the routes of jobs have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx

from pipelines import errors
from serve.api.services import Services
from tests.serve.api.openapi.provocations import (
    AT_ONCE,
    DRAWING,
    JOB,
    JOBS,
    JSON,
    PROVOCATIONS,
    Situation,
    provokes,
    raises,
    services,
)

__all__ = ["PROVOCATIONS"]

CANCEL, KEEP, EVENTS = f"{JOB}/cancel", f"{JOB}/keep", f"{JOB}/events"
OF_ONE = (JOB, CANCEL, KEEP, EVENTS)
STREAM = "text/event-stream"
BODY = {"prompt": "a cat", "seed": 1}


async def a_job(client: httpx.AsyncClient, *, is_over: bool = True) -> str:
    """The id of a new job."""
    job_id: str = (await client.post(JOBS, json=BODY)).json()["id"]
    if is_over:
        await client.post(f"/v1/jobs/{job_id}/cancel")
    return job_id


@provokes(JOBS, 200, JSON)
async def jobs_listed_or_replayed(at: Situation) -> httpx.Response:
    client = at.client_of(services())
    if at.method == "post":
        headers = {"idempotency-key": "a key to be replayed"}
        await client.post(JOBS, json=BODY, headers=headers)
        return await at.send(client, json=BODY, headers=headers)
    await client.post(JOBS, json={**BODY, "user": "listed"})
    return await at.send(client, params={"user": "listed"})


@provokes(JOBS, 202, JSON)
async def a_job_submitted(at: Situation) -> httpx.Response:
    return await at.ask()


@provokes(DRAWING, 202, JSON)
async def a_generation_that_nobody_waits_for(at: Situation) -> httpx.Response:
    return await at.ask(json=BODY, headers={"prefer": "respond-async"})


@provokes(JOB, 200, JSON)
@provokes((CANCEL, KEEP), 200, JSON)
@provokes(EVENTS, 200, STREAM)
@provokes(JOB, 204)
async def a_job_that_is_over(at: Situation) -> httpx.Response:
    client = at.client_of(services())
    return await at.send(client, name=await a_job(client))


@provokes((*OF_ONE, JOBS), 404, "job_not_found")
async def where_there_are_no_jobs(at: Situation) -> httpx.Response:
    return await at.ask(services(job_store=None))


@provokes(JOB, 409, "job_conflict")
async def deleted_before_its_end(at: Situation) -> httpx.Response:
    client = at.client_of(services())
    return await at.send(client, name=await a_job(client, is_over=False))


@provokes((JOBS, *DRAWING), 409, "idempotency_key_reused")
async def a_key_of_another_body(at: Situation) -> httpx.Response:
    client = at.client_of(services())
    headers = {"idempotency-key": "a key to be reused", "prefer": "respond-async"}
    await client.post(JOBS, json=BODY, headers=headers)
    return await at.send(client, json={**BODY, "seed": 2}, headers=headers)


@provokes((*OF_ONE, JOBS), 400, "invalid_value")
async def a_tenant_with_two_names(at: Situation) -> httpx.Response:
    given = services(tenants={"header": "x-tenant"})
    return await at.ask(given, headers=[("x-tenant", "a"), ("x-tenant", "b")])


@provokes(JOBS, 429, "overloaded")
async def a_full_queue(at: Situation) -> httpx.Response:
    bounds = {"jobs.max_waiting_s": 1e-3, "jobs.max_waiting_s_per_tenant": 1e-3}
    client = at.client_of(services(**bounds))
    await a_job(at.client_of(services()), is_over=False)
    return await at.send(client)


@provokes((*OF_ONE, JOBS), 503, "store_unavailable")
@provokes(DRAWING, 503, "store_unavailable")
async def a_store_that_is_away(at: Situation) -> httpx.Response:
    away = raises(errors.StoreUnavailable("away", retry_after_s=1.0))
    return await at.ask(behind(away), headers={"prefer": "respond-async"})


@provokes((*OF_ONE, JOBS), 500, "internal_error")
async def a_store_that_breaks(at: Situation) -> httpx.Response:
    return await at.ask(behind(raises(RuntimeError("bug"))))


@provokes((*OF_ONE, JOBS), 504, "request_timeout")
async def a_store_that_hangs(at: Situation) -> httpx.Response:
    async def hangs(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    return await at.ask(behind(hangs, limits=AT_ONCE))


@provokes(JOB, 500, "stage_failed")
async def files_that_cannot_be_deleted(at: Situation) -> httpx.Response:
    given = services()
    client = at.client_of(given)
    job_id = await a_job(client)

    async def forget(_: object) -> None:
        raise errors.StageFailed("no bucket", stage="storage")

    assert given.jobs is not None
    given.jobs._retention.forget = forget  # type: ignore[method-assign]
    return await at.send(client, name=job_id)


class _Behind:
    """A store of jobs of which every call is `asked`."""

    def __init__(self, asked: Callable[..., Any]) -> None:
        self._asked = asked

    def __getattr__(self, _: str) -> Callable[..., Any]:
        return self._asked


def behind(asked: Callable[..., Any], limits: dict[str, float] | None = None) -> Services:
    return services(job_store=_Behind(asked), limits=limits or {})
