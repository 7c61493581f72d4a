"""Jobs over HTTP: submit, look, list, steer, delete."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from pipelines.errors import InvalidRequest
from serve.api.jobs.submitting import check_key
from serve.jobs.job import Owner
from tests.serve.conftest import ClientOf
from tests.serve.fakes import services
from tests.serve.jobs.conftest import Replica, ReplicaOf

BODY = {"prompt": "a cat", "seed": 7, "num_inference_steps": 4, "user": "atelier"}
GENERATIONS = "/v1/images/generations"
MINE = {"user": "atelier"}


async def over(replica: Replica, client: httpx.AsyncClient, job_id: str) -> dict[str, object]:
    await replica.jobs.wait(job_id, Owner(tenant="atelier"), 60.0)
    return (await client.get(f"/v1/jobs/{job_id}", params=MINE)).json()


async def test_from_submission_to_the_file(client_of: ClientOf, replica_of: ReplicaOf):
    replica = await replica_of()
    client = client_of(replica.services)
    submitted = await client.post("/v1/jobs", json=BODY)
    assert submitted.status_code == 202
    job = submitted.json()
    assert job["object"] == "job"
    assert (job["status"], job["attempts"]) == ("queued", 0)
    assert job["trace_id"] == submitted.headers["x-trace-id"]
    assert submitted.headers["location"] == f"http://sluice.test/v1/jobs/{job['id']}"
    assert job["queue"] == {"position": 0}
    replica.graph.allow()
    done = await over(replica, client, job["id"])
    assert done["status"] == "succeeded"
    assert done["progress"] == {
        "phase": "done",
        "step": 4,
        "total": 4,
        "fraction": 1.0,
        "images": [{"image": 0, "phase": "done", "step": 4, "total": 4}],
    }
    (output,) = done["outputs"]  # type: ignore[misc]
    assert (output["seed"], output["width"], output["steps"]) == (7, 64, 4)
    assert (await client.get(output["url"])).status_code == 200
    assert done["queue"] is done["eta"] is done["error"] is None
    kept_s = replica.services.settings.stages.storage.ttl_s
    assert output["expires_at"] == min(done["finished_at"] + kept_s, done["expires_at"])  # type: ignore[operator]
    async with client.stream("GET", f"/v1/jobs/{job['id']}/events", params=MINE) as stream:
        told = [line async for line in stream.aiter_lines() if line.startswith("id: ")]
    assert (job["last_event"], told[-1]) == (1, f"id: {done['last_event']}")


async def test_a_trace_names_no_job(client_of: ClientOf, replica_of: ReplicaOf):
    """Who knows the id of a job of no tenant has it."""
    replica = await replica_of()
    client = client_of(replica.services)
    job = (await client.post("/v1/jobs", json={"prompt": "a cat", "num_inference_steps": 4})).json()
    replica.graph.allow()
    await replica.jobs.wait(job["id"], Owner(tenant=""), 60.0)
    cancelled = await client.post(f"/v1/jobs/{job['id']}/cancel")
    for trace_id in (job["trace_id"], cancelled.headers["x-trace-id"]):
        for path in ("/traces", f"/v1/traces/{trace_id}"):
            answer = await client.get(path)
            assert answer.status_code == 200
            assert job["id"] not in answer.text
    drawn = (await client.get(f"/v1/traces/{job['trace_id']}")).text
    assert "sluice.attempt" in drawn  # the job's own trace is among them


async def test_a_job_is_listed_once_and_its_trace_is_its_own(
    client_of: ClientOf, replica_of: ReplicaOf
):
    replica = await replica_of()
    client = client_of(replica.services)
    job = (await client.post("/v1/jobs", json=BODY)).json()

    async def listed() -> list[tuple[int | None, str]]:
        return [
            (each["status"], each["outcome"])
            for each in (await client.get("/traces")).json()["data"]
        ]

    assert await listed() == [(202, "submitted")]
    replica.graph.allow()
    await over(replica, client, job["id"])
    async with asyncio.timeout(60):
        while await listed() == [(202, "submitted")]:  # noqa: ASYNC110  nobody tells of it
            await asyncio.sleep(0.001)
    assert await listed() == [(None, "succeeded")]
    headers = {"accept": "text/html"}
    page = (await client.get(f"/v1/traces/{job['trace_id']}", headers=headers)).text
    assert "The job" in page
    assert "POST /v1/jobs" in page
    assert job["id"] not in page


async def test_the_request_can_be_posted_again(client_of: ClientOf, replica_of: ReplicaOf):
    replica = await replica_of()
    client = client_of(replica.services)
    replica.graph.allow()
    first = (await client.post("/v1/jobs", json={**BODY, "seed": -1})).json()
    again = (await client.post("/v1/jobs", json=first["request"])).json()
    assert again["request"] == first["request"]
    assert again["warnings"] == []


async def test_what_a_job_cannot_answer_is_named(client_of: ClientOf, replica_of: ReplicaOf):
    client = client_of((await replica_of(runs=False)).services)
    job = (await client.post("/v1/jobs", json={**BODY, "response_format": "b64_json"})).json()
    assert job["warnings"] == ["response_format: not used, a job's images are behind their urls"]


async def test_a_synchronous_request_that_prefers_not_to_wait(
    client_of: ClientOf, replica_of: ReplicaOf
):
    replica = await replica_of()
    client = client_of(replica.services)
    headers = {"prefer": "wait=3, Respond-Async"}
    answer = await client.post(GENERATIONS, json=BODY, headers=headers)
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "respond-async"
    assert answer.json()["object"] == "job"
    replica.graph.allow()
    assert (await over(replica, client, answer.json()["id"]))["status"] == "succeeded"


async def test_a_synchronous_request_touches_no_store(client_of: ClientOf, replica_of: ReplicaOf):
    replica = await replica_of(runs=False)
    replica.store.is_cut = True
    replica.graph.allow()
    client = client_of(replica.services)
    answer = await client.post(GENERATIONS, json=BODY)
    assert answer.status_code == 200
    assert "preference-applied" not in answer.headers


async def test_a_key_replays_the_job(client_of: ClientOf, replica_of: ReplicaOf):
    client = client_of((await replica_of(runs=False)).services)
    headers = {"idempotency-key": "k 1"}
    first = await client.post("/v1/jobs", json=BODY, headers=headers)
    again = await client.post("/v1/jobs", json=dict(reversed(BODY.items())), headers=headers)
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    asynchronous = {**headers, "prefer": "respond-async"}
    third = await client.post(GENERATIONS, json=BODY, headers=asynchronous)
    assert (third.status_code, third.json()["id"]) == (202, first.json()["id"])
    other = await client.post("/v1/jobs", json={**BODY, "seed": 8}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")


async def test_a_short_key_needs_a_name_beside_it(client_of: ClientOf, replica_of: ReplicaOf):
    client = client_of((await replica_of(runs=False)).services)
    nameless = {name: value for name, value in BODY.items() if name != "user"}
    headers = {"idempotency-key": "x" * 15, "prefer": "respond-async"}
    for url in ("/v1/jobs", GENERATIONS):
        refused = await client.post(url, json=nameless, headers=headers)
        error = refused.json()["error"]
        assert (refused.status_code, error["param"]) == (400, "Idempotency-Key")
        assert "at least 16 characters, such as a UUID, or name the `user`" in error["message"]
    for body, named in (
        (nameless, {"idempotency-key": "x" * 16}),
        (nameless, {**headers, "x-sluice-user": "anna"}),
        ({**nameless, "user": "ben"}, headers),
    ):
        assert (await client.post("/v1/jobs", json=body, headers=named)).status_code == 202


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\xe9", "a\tb"])
async def test_keys_that_are_none(client_of: ClientOf, replica_of: ReplicaOf, key: str):
    client = client_of((await replica_of(runs=False)).services)
    headers = [(b"idempotency-key", key.encode("latin-1"))]
    answer = await client.post("/v1/jobs", json=BODY, headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Idempotency-Key")


async def test_lists_are_the_owners(client_of: ClientOf, replica_of: ReplicaOf):
    replica = await replica_of(runs=False)
    client = client_of(replica.services)
    ids = [
        (await client.post("/v1/jobs", json={**BODY, "seed": seed})).json()["id"]
        for seed in range(3)
    ]
    page = (await client.get("/v1/jobs", params={**MINE, "limit": 2})).json()
    assert [job["id"] for job in page["data"]] == ids[:0:-1]
    last = await client.get("/v1/jobs", params={**MINE, "cursor": page["next_cursor"]})
    assert [job["id"] for job in last.json()["data"]] == ids[:1]
    assert last.json()["next_cursor"] is None
    by_header = await client.get("/v1/jobs", headers={"x-sluice-user": "atelier"})
    assert len(by_header.json()["data"]) == 3
    assert (await client.get("/v1/jobs")).json()["data"] == []
    await client.post(f"/v1/jobs/{ids[0]}/cancel", params=MINE)
    status = {**MINE, "status": "cancelled,failed"}
    (only,) = (await client.get("/v1/jobs", params=status)).json()["data"]
    assert only["id"] == ids[0]


@pytest.mark.parametrize(
    ("params", "param", "said"),
    [
        ({"cursor": "x"}, "cursor", "cursor: not one that this server"),
        ({"cursor": "caf\xe9"}, "cursor", "cursor: not one"),
        ({"cursor": "A" * 80}, "cursor", "cursor: not one"),
        ({"status": "done"}, "status", "status: 'done' is no status of a job; name one of queued"),
        ({"status": "queued,"}, "status", "status: names no status; name one of queued"),
        ({"limit": "0"}, "limit", 'limit: must be at least 1, got "0"'),
        ({"limit": "101"}, "limit", 'limit: must be at most 100, got "101"'),
        ({"limit": "ten"}, "limit", 'limit: must be an integer, got "ten"'),
        ({"limit": "1.5"}, "limit", 'limit: must be an integer, got "1.5"'),
    ],
)
async def test_lists_that_are_none(
    client_of: ClientOf, replica_of: ReplicaOf, params: dict[str, str], param: str, said: str
):
    client = client_of((await replica_of(runs=False)).services)
    answer = await client.get("/v1/jobs", params={**MINE, **params})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert error["message"].startswith(said)


async def test_all_parameters_that_are_wrong_are_told(client_of: ClientOf, replica_of: ReplicaOf):
    client = client_of((await replica_of(runs=False)).services)
    answer = await client.get("/v1/jobs/job_1/events", params={"after": "x", "previews": "some"})
    error = answer.json()["error"]
    assert error["param"] == "after"
    assert error["message"] == (
        'after: must be an integer, got "x"; previews: must be true or false, got "some"'
    )


async def test_who_has_no_name_is_told_why_the_list_is_empty(
    client_of: ClientOf, replica_of: ReplicaOf
):
    client = client_of((await replica_of(runs=False)).services)
    (said,) = (await client.get("/v1/jobs")).json()["warnings"]
    assert said.startswith("user: not given")
    assert "x-sluice-user" in said
    assert (await client.get("/v1/jobs", params=MINE)).json()["warnings"] == []
    behind = client_of((await replica_of(runs=False, tenants={"header": "x-tenant"})).services)
    (said,) = (await behind.get("/v1/jobs", params=MINE)).json()["warnings"]
    assert said.startswith("x-tenant: the gateway names no tenant")


async def test_a_list_asks_the_store_once_for_all_places(
    client_of: ClientOf, replica_of: ReplicaOf, monkeypatch: pytest.MonkeyPatch
):
    replica = await replica_of(runs=False)
    client = client_of(replica.services)
    for seed in range(4):
        await client.post("/v1/jobs", json={**BODY, "seed": seed})
    asked: list[int] = []
    waiting_before = replica.store.store.waiting_before

    async def counting(job_ids: list[str]) -> object:
        asked.append(len(job_ids))
        return await waiting_before(job_ids)

    monkeypatch.setattr(replica.store.store, "waiting_before", counting)
    page = (await client.get("/v1/jobs", params=MINE)).json()
    assert [job["queue"]["position"] for job in page["data"]] == [3, 2, 1, 0]
    assert asked == [4]
    await client.get("/v1/jobs", params={**MINE, "status": "succeeded"})
    assert asked == [4]  # nothing waits among these


async def test_anothers_job_is_none(client_of: ClientOf, replica_of: ReplicaOf):
    client = client_of((await replica_of(runs=False)).services)
    job_id = (await client.post("/v1/jobs", json=BODY)).json()["id"]
    for method, path in (
        ("GET", ""),
        ("HEAD", ""),
        ("GET", "/events"),
        ("POST", "/cancel"),
        ("POST", "/keep"),
        ("DELETE", ""),
    ):
        answer = await client.request(method, f"/v1/jobs/{job_id}{path}", params={"user": "x"})
        assert answer.status_code == 404, (method, path)
    assert (await client.get(f"/v1/jobs/{job_id}", params=MINE)).json()["status"] == "queued"


async def test_where_a_gateway_names_tenants_nobody_else_does(
    client_of: ClientOf, replica_of: ReplicaOf
):
    client = client_of((await replica_of(runs=False, tenants={"header": "x-tenant"})).services)
    headers = {"x-tenant": "a"}
    job_id = (await client.post("/v1/jobs", json=BODY, headers=headers)).json()["id"]
    assert (await client.get(f"/v1/jobs/{job_id}", headers=headers)).status_code == 200
    assert (await client.get(f"/v1/jobs/{job_id}", params=MINE)).status_code == 404


async def test_cancelled_kept_and_deleted(client_of: ClientOf, replica_of: ReplicaOf):
    replica = await replica_of()
    client = client_of(replica.services)
    job_id = (await client.post("/v1/jobs", json=BODY)).json()["id"]
    await replica.graph.entered.acquire()
    assert (await client.delete(f"/v1/jobs/{job_id}", params=MINE)).status_code == 409
    kept = (await client.post(f"/v1/jobs/{job_id}/keep", params=MINE)).json()
    assert (kept["status"], kept["pending_action"]) == ("running", "keep")
    cancelled = (await client.post(f"/v1/jobs/{job_id}/cancel", params=MINE)).json()
    assert cancelled["pending_action"] == "cancel"
    assert (await over(replica, client, job_id))["status"] == "cancelled"
    assert (await client.delete(f"/v1/jobs/{job_id}", params=MINE)).status_code == 204
    assert (await client.get(f"/v1/jobs/{job_id}", params=MINE)).status_code == 404


async def test_webhooks_are_refused_where_there_are_none(
    client_of: ClientOf, replica_of: ReplicaOf
):
    client = client_of((await replica_of(runs=False)).services)
    body = {**BODY, "webhook_url": "https://hooks.example"}
    answer = await client.post("/v1/jobs", json=body)
    assert answer.json()["error"]["param"] == "webhook_url"
    assert "sends no webhooks" in answer.json()["error"]["message"]
    wrong = await client.post("/v1/jobs", json={**BODY, "webhook_url": 7})
    assert wrong.json()["error"]["param"] == "webhook_url"


async def test_webhooks_are_checked_where_there_are_some(
    client_of: ClientOf, replica_of: ReplicaOf
):
    class OnlyOne:
        def check(self, url: str, *, param: str = "webhook_url") -> None:
            if url != "https://hooks.example":
                raise InvalidRequest(f"{param}: not allowed", param=param)

    replica = await replica_of(runs=False)
    replica.services.webhooks = OnlyOne()  # type: ignore[assignment]
    client = client_of(replica.services)
    body = {**BODY, "webhook_url": "https://hooks.example"}
    job_id = (await client.post("/v1/jobs", json=body)).json()["id"]
    stored = await replica.store.store.get(job_id)
    assert stored is not None
    assert stored.webhook == "https://hooks.example"
    headers = {"prefer": "respond-async"}
    body = {**BODY, "webhook_url": "https://metadata.example"}
    refused = await client.post(GENERATIONS, json=body, headers=headers)
    assert refused.status_code == 400


async def test_a_full_queue_says_when_to_come_back(client_of: ClientOf, replica_of: ReplicaOf):
    bounds = {"jobs.max_waiting_s": 3.0, "jobs.max_waiting_s_per_tenant": 3.0}
    client = client_of((await replica_of(runs=False, **bounds)).services)
    assert (await client.post("/v1/jobs", json={**BODY, "n": 2})).status_code == 202
    refused = await client.post("/v1/jobs", json={**BODY, "n": 3})
    assert refused.status_code == 429
    assert refused.headers["retry-after-ms"] == "2000"


async def test_a_store_that_is_away(client_of: ClientOf, replica_of: ReplicaOf):
    replica = await replica_of(runs=False)
    client = client_of(replica.services)
    replica.store.is_cut = True
    answer = await client.post("/v1/jobs", json=BODY)
    assert (answer.status_code, answer.headers["retry-after-ms"]) == (503, "10")
    error = answer.json()["error"]
    assert error["code"] == "store_unavailable"
    # Where the store is, the log says.
    assert error["message"].startswith("jobs can be neither read nor written now")


async def test_where_there_are_no_jobs(client_of: ClientOf):
    client = client_of(services())
    for answer in (await client.post("/v1/jobs", json=BODY), await client.get("/v1/jobs")):
        assert answer.status_code == 404
        assert "jobs.enabled" in answer.json()["error"]["message"]
    headers = {"prefer": "respond-async"}
    plain = await client.post(GENERATIONS, json={"prompt": "a cat"}, headers=headers)
    assert plain.status_code == 200
    assert "preference-applied" not in plain.headers


async def test_a_key_without_a_job_is_named(client_of: ClientOf):
    client = client_of(services())
    headers = {"idempotency-key": "k"}
    answer = await client.post(GENERATIONS, json={"prompt": "a cat"}, headers=headers)
    assert "Idempotency-Key: not used" in answer.json()["warnings"][-1]
    headers = {"idempotency-key": "x" * 256}
    refused = await client.post(GENERATIONS, json={"prompt": "a cat"}, headers=headers)
    assert refused.json()["error"]["param"] == "Idempotency-Key"


@pytest.mark.parametrize(
    ("header", "said"),
    [(None, "or name the `user`"), ("x-team", "or have the gateway set x-team")],
)
def test_a_short_key_without_a_name_is_told_what_would_do(header: str | None, said: str):
    with pytest.raises(InvalidRequest, match=said):
        check_key("short", Owner(tenant=""), header)
    check_key("short", Owner(tenant="anna"), header)
    check_key("k" * 16, Owner(tenant=""), header)
