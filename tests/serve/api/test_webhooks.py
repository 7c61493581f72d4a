"""Webhooks through the API: from a submitted job to a verified message; dead letters."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from standardwebhooks import Webhook

from serve.jobs.store.sqlite import SqliteStore
from tests.serve.fakes import services
from tests.serve.live import Live, live
from tests.serve.webhooks.receiver import Receiver, receiving, status

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
ANNAS = "whsec_" + base64.b64encode(bytes(range(32, 64))).decode()
DELIVERIES = "/v1/webhooks/deliveries"

LiveOf = Callable[..., AbstractContextManager[Live]]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def live_of(tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> LiveOf:
    """Serves an application over the test's store of jobs; its webhooks may reach the receiver."""
    monkeypatch.setenv("SLUICE_WEBHOOKS__SECRET", SECRET)
    monkeypatch.setenv("SLUICE_WEBHOOKS__TENANT_SECRETS", json.dumps({"anna": ANNAS}))

    def make(**settings: Any) -> AbstractContextManager[Live]:
        given = services(
            job_store=SqliteStore(tmp_path / "jobs.sqlite3", ttl_s=1000.0),
            **{
                "jobs.poll_s": 0.01,
                "webhooks.allow": f"http://127.0.0.1:{receiver.port}",
                "webhooks.allow_private": True,
                "webhooks.poll_s": 0.01,
                **settings,
            },
        )
        return live(given)

    return make


@pytest.fixture
def at(live_of: LiveOf) -> Iterator[httpx.Client]:
    with live_of() as served, httpx.Client(base_url=served.url) as client:
        yield client


def submit(at: httpx.Client, receiver: Receiver, **body: Any) -> dict[str, Any]:
    url = f"http://127.0.0.1:{receiver.port}/hook"
    answer = at.post("/v1/jobs", json={"prompt": "a cat", "webhook_url": url, **body})
    assert answer.status_code == 202, answer.text
    return answer.json()


def deliveries(at: httpx.Client, **query: str) -> list[dict[str, Any]]:
    answer = at.get(DELIVERIES, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def over(at: httpx.Client, delivery_id: str) -> dict[str, Any]:
    """The delivery, once nothing is sent any more."""
    while True:
        [found] = [each for each in deliveries(at, user="anna") if each["id"] == delivery_id]
        if found["status"] != "waiting" or found["attempts"]:
            return found


def test_a_message_that_every_verifier_takes(at: httpx.Client, receiver: Receiver):
    job = submit(at, receiver, user="anna", seed=5)
    receiver.arrived.acquire()
    [message] = receiver.received
    told = Webhook(ANNAS).verify(message.body, message.headers)
    assert told == {
        "type": "job.succeeded",
        "timestamp": told["timestamp"],
        "data": at.get(f"/v1/jobs/{job['id']}?user=anna").json()
        | {"outputs": told["data"]["outputs"]},
    }
    [output] = told["data"]["outputs"]
    assert output["url"].startswith("/v1/files/")
    client = openai.OpenAI(api_key="unused", webhook_secret=ANNAS)
    assert client.webhooks.unwrap(message.body, message.headers).type == "job.succeeded"
    client.close()
    found = over(at, message.headers["webhook-id"])
    assert (found["status"], found["last_status"], found["next_at"]) == ("delivered", 204, None)
    assert found["job_id"] == job["id"]


def test_links_are_whole_where_the_server_knows_its_address(live_of: LiveOf, receiver: Receiver):
    with (
        live_of(public_url="https://images.example.com/x") as served,
        httpx.Client(base_url=served.url) as at,
    ):
        submit(at, receiver)
        receiver.arrived.acquire()
    message = receiver.received[0]
    told = Webhook(SECRET).verify(message.body, message.headers)
    url = told["data"]["outputs"][0]["url"]
    assert url.startswith("https://images.example.com/x/v1/files/")


def test_a_dead_letter_and_its_second_life(at: httpx.Client, receiver: Receiver):
    receiver.answers.append(status(410))
    job = submit(at, receiver, user="anna")
    receiver.arrived.acquire()
    dead = over(at, receiver.received[0].headers["webhook-id"])
    assert dead["status"] == "dead"
    assert dead["last_error"] == "answered 410: the receiver wants no more"
    assert [each["id"] for each in deliveries(at, status="dead", user="anna")] == [dead["id"]]
    assert deliveries(at, status="delivered", user="anna") == []

    answer = at.post(f"{DELIVERIES}/{dead['id']}/redeliver", params={"user": "anna"})
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["attempts"]) == ("waiting", 0)
    assert answer.json()["job_id"] == job["id"]
    receiver.arrived.acquire()
    assert over(at, dead["id"])["status"] == "delivered"
    assert len({message.headers["webhook-id"] for message in receiver.received}) == 1


def test_deliveries_are_their_owners_alone(at: httpx.Client, receiver: Receiver):
    submit(at, receiver, user="anna")
    receiver.arrived.acquire()
    delivery_id = receiver.received[0].headers["webhook-id"]
    over(at, delivery_id)
    for query in ({"user": "ben"}, {}):
        assert deliveries(at, **query) == []
        answer = at.post(f"{DELIVERIES}/{delivery_id}/redeliver", params=query)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "delivery_not_found"
    assert len(receiver.received) == 1


def test_a_restart_in_the_middle(live_of: LiveOf, receiver: Receiver):
    receiver.answers.append(lambda _: receiver.closing.wait(30))
    with live_of() as served, httpx.Client(base_url=served.url) as at:
        submit(at, receiver, user="anna")
        receiver.arrived.acquire()
    # What was under way is sent again, by whoever comes next, as soon as that may be.
    with live_of() as served, httpx.Client(base_url=served.url) as at:
        [waiting] = deliveries(at, user="anna")
        assert waiting["status"] == "waiting"
        at.post(f"{DELIVERIES}/{waiting['id']}/redeliver", params={"user": "anna"})
        receiver.arrived.acquire()
        assert over(at, waiting["id"])["status"] == "delivered"
    assert {m.headers["webhook-id"] for m in receiver.received} == {waiting["id"]}


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://169.254.169.254/latest/meta-data/", "is not allowed here"),
        ("https://hooks.example.com/", "is not allowed here"),
        ("http://127.0.0.1@169.254.169.254/", "credentials"),
        ("http://2130706433/", "four decimal numbers"),
        ("nonsense", "must be a URL"),
        ("", "must be a URL"),
    ],
)
def test_a_url_that_is_not_allowed(at: httpx.Client, url: str, says: str):
    answer = at.post("/v1/jobs", json={"prompt": "a cat", "webhook_url": url})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "webhook_url"
    assert says in error["message"]


def test_webhooks_that_nobody_allows(tmp_path: Path):
    given = services(job_store=SqliteStore(tmp_path / "jobs.sqlite3", ttl_s=1000.0))
    with live(given) as served, httpx.Client(base_url=served.url) as at:
        answer = at.post(
            "/v1/jobs", json={"prompt": "a cat", "webhook_url": "https://hooks.example.com/"}
        )
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "unsupported_feature"
        assert "this server sends no webhooks" in answer.json()["error"]["message"]
        assert deliveries(at, user="anna") == []


def test_bad_queries(at: httpx.Client):
    for query in ({"status": "gone"}, {"limit": "0"}, {"limit": "101"}):
        answer = at.get(DELIVERIES, params=query)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == next(iter(query))
