"""A job's events over HTTP: resumed anywhere, without gaps or doubles."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NamedTuple

import httpx
import pytest

from pipelines.errors import StoreUnavailable
from serve.jobs.job import Job
from tests.serve.conftest import ClientOf
from tests.serve.jobs.conftest import ReplicaOf

BODY = {"prompt": "a cat", "seed": 7, "num_inference_steps": 4, "user": "atelier"}
MINE = {"user": "atelier"}


class Event(NamedTuple):
    id: int | None
    event: str
    data: dict[str, Any]


def events_in(answer: httpx.Response) -> list[Event]:
    assert answer.status_code == 200, answer.text
    found: list[Event] = []
    for block in answer.text.split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith(":")]
        fields = dict(line.split(": ", 1) for line in lines if ": " in line)
        if fields:
            number = fields.get("id")
            found.append(
                Event(
                    None if number is None else int(number),
                    fields["event"],
                    json.loads(fields["data"]),
                )
            )
    return found


async def test_from_the_first_to_the_last(client_of: ClientOf, replica_of: ReplicaOf):
    replica = await replica_of()
    client = client_of(replica.services)
    replica.graph.allow()
    job_id = (await client.post("/v1/jobs", json={**BODY, "n": 2})).json()["id"]
    answer = await client.get(f"/v1/jobs/{job_id}/events", params=MINE)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.text.startswith(":")
    events = events_in(answer)
    assert [each.id for each in events] == list(range(1, len(events) + 1))
    assert [each.event for each in events] == [each.data["type"] for each in events]
    assert {each.data["job_id"] for each in events} == {job_id}
    images = [each.data["output"] for each in events if each.event == "job.image"]
    assert [(image["image"], image["seed"]) for image in images] == [(0, 7), (1, 8)]
    assert (await client.get(images[0]["url"])).status_code == 200
    assert events[-1].event == "job.succeeded"
    job = (await client.get(f"/v1/jobs/{job_id}", params=MINE)).json()
    assert events[-1].data["job"] == job
    told = [each.data["progress"]["images"] for each in events if each.event == "job.progress"]
    assert all(len(images) == 2 for images in told)


async def test_a_store_that_is_away_between_two_looks_ends_no_stream(
    client_of: ClientOf, replica_of: ReplicaOf, monkeypatch: pytest.MonkeyPatch
):
    replica = await replica_of()
    client = client_of(replica.services)
    replica.graph.allow()
    job_id = (await client.post("/v1/jobs", json={**BODY, "n": 2})).json()["id"]
    jobs = replica.services.jobs
    assert jobs is not None
    get, away = jobs.get, [True, False] * 20

    async def get_at_times(*arguments: Any) -> Job:
        if away.pop():
            raise StoreUnavailable("the store is away", retry_after_s=0.001)
        return await get(*arguments)

    monkeypatch.setattr(jobs, "get", get_at_times)
    events = events_in(await client.get(f"/v1/jobs/{job_id}/events", params=MINE))
    assert [each.id for each in events] == list(range(1, len(events) + 1))
    assert events[-1].data["job"]["status"] == "succeeded"
    assert len(away) < 38  # one look at the start, and two for an event at least


async def test_resumed_through_another_replica(client_of: ClientOf, replica_of: ReplicaOf):
    first, second = await replica_of(), await replica_of(runs=False)
    here, there = client_of(first.services), client_of(second.services)
    first.graph.allow()
    job_id = (await here.post("/v1/jobs", json=BODY)).json()["id"]
    url = f"/v1/jobs/{job_id}/events"
    whole = events_in(await here.get(url, params=MINE))
    for count in range(len(whole)):
        rest = await there.get(
            url, params={**MINE, "after": 0}, headers={"last-event-id": str(count)}
        )
        assert [each.id for each in events_in(rest)] == [each.id for each in whole[count:]]
    by_query = await there.get(url, params={**MINE, "after": 2})
    assert [each.id for each in events_in(by_query)] == [each.id for each in whole[2:]]


@pytest.mark.parametrize("last", ["99", "-1", "x", "1.5", "\xb2", "9" * 40])
async def test_ids_that_no_event_has(client_of: ClientOf, replica_of: ReplicaOf, last: str):
    client = client_of((await replica_of(runs=False)).services)
    job_id = (await client.post("/v1/jobs", json=BODY)).json()["id"]
    headers = [(b"last-event-id", last.encode("latin-1"))]
    answer = await client.get(f"/v1/jobs/{job_id}/events", params=MINE, headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Last-Event-ID")


async def test_previews_have_no_id(client_of: ClientOf, replica_of: ReplicaOf):
    replica = await replica_of()
    client = client_of(replica.services)
    job_id = (await client.post("/v1/jobs", json=BODY)).json()["id"]
    await replica.graph.entered.acquire()
    watching = asyncio.create_task(replica.jobs.previews(job_id, None))
    replica.graph.allow()
    answer = await client.get(f"/v1/jobs/{job_id}/events", params={**MINE, "previews": "1"})
    await watching
    events = events_in(answer)
    for each in events:
        assert (each.id is None) == (each.event == "job.preview")
    assert events[-1].event == "job.succeeded"


async def test_who_only_asks_for_the_headers_does_not_wait(
    client_of: ClientOf, replica_of: ReplicaOf
):
    client = client_of((await replica_of(runs=False)).services)
    job_id = (await client.post("/v1/jobs", json=BODY)).json()["id"]
    answer = await client.head(f"/v1/jobs/{job_id}/events", params=MINE)
    assert answer.status_code == 200
    assert answer.content == b""
