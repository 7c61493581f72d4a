"""Replicate's own client, unmodified, against predictions over jobs."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import replicate
import replicate.client
from replicate.exceptions import ModelError, ReplicateError
from replicate.webhook import Webhooks, WebhookSigningSecret

from pipelines.errors import DegenerateImage
from serve.jobs.job import Job, Owner
from serve.jobs.service import JobService
from tests.serve.api.vendors.conftest import ServedOf
from tests.serve.jobs.stepping_graph import SteppingGraph
from tests.serve.live import Live
from tests.serve.webhooks.receiver import Authority, Receiver, receiving

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
MODEL = "sluice/test-model"


Client = replicate.client.Client
ClientOf = Callable[..., Client]


@pytest.fixture
def client_of() -> Iterator[ClientOf]:
    """Makes a client of an application, with headers of its own; closes it at the end."""
    made: list[Client] = []

    def make(url: str, **headers: str) -> Client:
        made.append(Client("unused", base_url=url, headers=headers))
        made[-1].poll_interval = 0.01
        return made[-1]

    yield make
    for each in made:
        each._client.close()


@pytest.fixture
def client(served: Live, client_of: ClientOf) -> Client:
    return client_of(served.url)


def test_run(client: Client, served: Live, graph: SteppingGraph, picture: bytes):
    served.call(graph.allow)
    output = client.run(
        MODEL,
        input={
            "prompt": "a cat",
            "seed": 7,
            "num_outputs": 2,
            "aspect_ratio": "2:1",
            "output_format": "jpg",
            "output_quality": 80,
            "disable_safety_checker": False,
        },
    )
    assert isinstance(output, list)
    assert len(output) == 2
    # Over plain HTTP the client leaves URLs as they are.
    assert all(httpx.get(url).status_code == 200 for url in output)
    [job] = graph.jobs
    assert (job.params.seed, job.params.num_images) == (7, 2)
    assert (job.finish.output_format, job.finish.output_compression) == ("jpeg", 80)
    assert job.params.width == 2 * job.params.height


def test_run_over_tls_gives_files(
    client_of: ClientOf,
    served_of: ServedOf,
    graph: SteppingGraph,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    served = served_of(authority.issue("localhost"))
    served.call(graph.allow)
    made = client_of(served.url.replace("127.0.0.1", "localhost"))
    [file] = made.run(MODEL, input={"prompt": "a cat", "seed": 7})
    assert file.url.startswith("https://localhost:")
    stored = served.services.store.get(file.url.rpartition("/")[2])
    assert file.read() == stored.data


def test_a_prediction_from_its_beginning_to_its_end(
    client: Client, served: Live, graph: SteppingGraph
):
    prediction = client.models.predictions.create(
        MODEL, input={"prompt": "a cat", "seed": 7, "num_inference_steps": 4}
    )
    assert prediction.status == "starting"
    assert (prediction.model, prediction.version) == ("sluice-shapes", "sluice-shapes")
    assert prediction.output is None
    served.call(lambda: graph.allow(3))
    while prediction.progress is None or prediction.progress.current < 3:
        prediction.reload()
    assert prediction.status == "processing"
    assert (prediction.progress.current, prediction.progress.total) == (3, 4)
    assert prediction.progress.percentage == 0.75
    assert prediction.logs is not None
    assert prediction.logs.startswith("Using seed: 7\n")
    served.call(graph.allow)
    prediction.wait()
    assert prediction.status == "succeeded"
    assert prediction.progress.percentage == 1.0
    assert prediction.input is not None
    assert prediction.input["seed"] == 7
    assert prediction.output is not None
    assert prediction.metrics is not None
    assert prediction.metrics["total_time"] >= prediction.metrics["predict_time"] >= 0
    assert prediction.completed_at is not None
    assert prediction.completed_at.endswith("Z")


@pytest.mark.parametrize("version", ["test-model", MODEL, f"{MODEL}:abc"])
def test_by_version(client: Client, served: Live, graph: SteppingGraph, version: str):
    served.call(graph.allow)
    prediction = client.predictions.create(version=version, input={"prompt": "a cat"}, wait=10)
    assert prediction.status == "succeeded"


def test_nobody_is_told_processing_who_waits(client: Client, served: Live, graph: SteppingGraph):
    # Not by the client: it gives up half a second after what it asked for.
    answer = httpx.post(
        f"{served.url}/v1/predictions",
        json={"version": "test-model", "input": {"prompt": "a cat", "num_inference_steps": 4}},
        headers={"prefer": "wait=1"},
        timeout=60,
    )
    assert answer.json()["status"] == "starting"
    prediction = client.predictions.get(answer.json()["id"])
    assert prediction.status == "processing"
    served.call(graph.allow)
    prediction.wait()
    assert prediction.status == "succeeded"


def test_a_wait_is_answered_before_its_client_gives_up(
    served: Live, graph: SteppingGraph, monkeypatch: pytest.MonkeyPatch
):
    waits: list[float] = []
    wait = JobService.wait

    async def noted(self: JobService, job_id: str, owner: Owner, timeout_s: float) -> Job:
        waits.append(timeout_s)
        return await wait(self, job_id, owner, timeout_s)

    monkeypatch.setattr(JobService, "wait", noted)
    served.call(graph.allow)
    httpx.post(
        f"{served.url}/v1/predictions",
        json={"version": "test-model", "input": {"prompt": "a cat"}},
        headers={"prefer": "wait=5"},
        timeout=60,
    )
    (waited_s,) = waits
    assert 4 < waited_s < 5


def test_cancel(client: Client, served: Live, graph: SteppingGraph):
    prediction = client.predictions.create(version="test-model", input={"prompt": "a cat"})
    served.call(lambda: graph.allow(2))
    while prediction.progress is None or prediction.progress.current < 2:
        prediction.reload()
    prediction.cancel()
    prediction.wait()
    assert prediction.status == "canceled"
    assert graph.cancelled == [prediction.id]
    prediction.cancel()
    assert prediction.status == "canceled"


def test_a_failure_is_told(client: Client, served: Live, graph: SteppingGraph):
    graph.errors.append(DegenerateImage("the image is all one value"))
    with pytest.raises(ModelError, match="the image is all one value") as caught:
        client.run(MODEL, input={"prompt": "a cat"})
    assert caught.value.prediction.status == "failed"
    assert "Error: the image is all one value" in (caught.value.prediction.logs or "")


def test_a_job_of_a_tenant_is_that_tenants(client_of: ClientOf, served: Live, graph: SteppingGraph):
    served.call(graph.allow)
    annas = client_of(served.url, **{"x-sluice-user": "anna"})
    prediction = annas.predictions.create(version="test-model", input={"prompt": "a cat"}, wait=10)
    assert annas.predictions.get(prediction.id).id == prediction.id
    for other in (client_of(served.url), client_of(served.url, **{"x-sluice-user": "ben"})):
        with pytest.raises(ReplicateError) as caught:
            other.predictions.get(prediction.id)
        assert caught.value.status == 404


def test_a_user_is_named_when_a_prediction_is_made_and_not_when_it_is_asked_for(
    client: Client, served: Live, graph: SteppingGraph
):
    served.call(lambda: graph.allow(1))
    given = {"prompt": "a cat", "num_inference_steps": 4, "user": "anna"}
    prediction = client.predictions.create(version="test-model", input=given)
    prediction.reload()
    prediction.cancel()
    prediction.wait()
    assert prediction.status == "canceled"
    served.call(graph.allow)
    assert client.run(MODEL, input=given)
    jobs = httpx.get(f"{served.url}/v1/jobs", params={"user": "anna"}).json()["data"]
    assert prediction.id in [job["id"] for job in jobs]
    assert httpx.get(f"{served.url}/v1/jobs").json()["data"] == []
    # Elsewhere it is its owner's alone, as ever.
    assert httpx.get(f"{served.url}/v1/jobs/{prediction.id}").status_code == 404
    assert httpx.get(f"{served.url}/v1/jobs/{prediction.id}?user=anna").status_code == 200


def test_a_prediction_of_a_gateways_tenant_is_that_tenants(
    client_of: ClientOf, served_of: ServedOf, graph: SteppingGraph
):
    served = served_of(**{"tenants.header": "x-tenant"})
    served.call(graph.allow)
    annas = client_of(served.url, **{"x-tenant": "anna"})
    given = {"prompt": "a cat", "user": "anna"}
    prediction = annas.predictions.create(version="test-model", input=given, wait=10)
    assert annas.predictions.get(prediction.id).status == "succeeded"
    for other in (client_of(served.url), client_of(served.url, **{"x-tenant": "ben"})):
        with pytest.raises(ReplicateError) as caught:
            other.predictions.get(prediction.id)
        assert caught.value.status == 404


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"input": {"prompt": "a cat", "lora_weights": "x"}}, "lora_weights: adapters"),
        ({"input": {"prompt": "a cat", "sede": 1}}, "sede: unknown field; did you mean `seed`?"),
        ({"input": {"prompt": "a cat", "model": "none"}}, "model: contradicts the URL"),
        ({"input": {}}, "prompt: required"),
        ({"input": "a cat"}, "input: must be an object"),
        ({}, "input: must be an object"),
        ({"input": {"prompt": "a cat"}, "seed": 3}, "seed: unknown field; what the model takes"),
        ({"version": 3, "input": {"prompt": "a cat"}}, "version: must be a string"),
        ({"input": {"prompt": "a cat"}, "webhook": 3}, "webhook: must be a string"),
        ({"input": {"prompt": "a cat"}, "webhook": "x"}, "webhook: this server sends no webhooks"),
        (
            {"input": {"prompt": "a cat"}, "webhook_events_filter": ["end"]},
            "webhook_events_filter: must be a list of start, output, logs, completed",
        ),
        (
            {"input": {"prompt": "a cat"}, "webhook": "x", "webhook_events_filter": ["logs"]},
            "webhook_events_filter: only `completed` is sent",
        ),
        (
            {"input": {"prompt": "a cat"}, "webhook": "x", "webhook_completed": "y"},
            "webhook_completed: contradicts webhook",
        ),
    ],
)
def test_refused_by_name(served: Live, body: dict[str, Any], says: str):
    body = {"version": "test-model", **body}
    answer = httpx.post(f"{served.url}/v1/predictions", json=body)
    assert answer.status_code == 400
    said = answer.json()
    assert said["detail"] == said["error"]["message"]
    assert said["detail"].startswith(said["error"]["param"])
    assert says in said["detail"]


def test_the_client_shows_why(client: Client):
    with pytest.raises(ReplicateError, match="did you mean `seed`") as caught:
        client.run(MODEL, input={"prompt": "a cat", "sede": 1})
    assert (caught.value.status, caught.value.title) == (400, "invalid_value")
    with pytest.raises(ReplicateError, match="is not served here") as caught:
        client.run("black-forest-labs/flux-dev", input={"prompt": "a cat"})
    assert (caught.value.status, caught.value.title) == (404, "model_not_found")
    with pytest.raises(ReplicateError) as caught:
        client.predictions.get("job_none")
    assert (caught.value.status, caught.value.title) == (404, "job_not_found")


def test_a_body_that_is_no_json(served: Live):
    answer = httpx.post(f"{served.url}/v1/predictions", data={"input": "a cat"})
    assert (answer.status_code, answer.json()["title"]) == (415, "unsupported_media_type")
    assert answer.json()["detail"].startswith("content-type: must be")


@pytest.mark.parametrize("prefer", ["wait=0", "wait=61", "wait=x", "wait=1.5", "wait="])
def test_a_wait_that_is_none(served: Live, prefer: str):
    answer = httpx.post(
        f"{served.url}/v1/predictions",
        json={"input": {"prompt": "a cat"}},
        headers={"prefer": prefer},
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "prefer"


def test_idempotency_and_preferences(served: Live, graph: SteppingGraph):
    def post(**headers: str) -> httpx.Response:
        return httpx.post(
            f"{served.url}/v1/predictions",
            json={"input": {"prompt": "a cat", "seed": 1}},
            headers={"idempotency-key": "k" * 16, **headers},
        )

    first = post(prefer="respond-async")
    assert first.status_code == 201
    assert first.headers["preference-applied"] == "respond-async"
    assert "idempotent-replayed" not in first.headers
    served.call(graph.allow)
    second = post(prefer="wait")
    assert second.headers["preference-applied"] == "wait"
    assert second.headers["idempotent-replayed"] == "true"
    assert second.json()["id"] == first.json()["id"]
    assert second.json()["status"] == "succeeded"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


def test_a_webhook_in_replicates_words(
    client_of: ClientOf,
    served_of: ServedOf,
    graph: SteppingGraph,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("SLUICE_WEBHOOKS__SECRET", SECRET)
    served = served_of(
        **{
            "webhooks.allow": f"http://127.0.0.1:{receiver.port}",
            "webhooks.allow_private": True,
            "public_url": "https://images.example.com",
        }
    )
    served.call(graph.allow)
    url = f"http://127.0.0.1:{receiver.port}/hook"
    prediction = client_of(served.url).predictions.create(
        version="test-model", input={"prompt": "a cat"}, webhook=url, wait=10
    )
    receiver.arrived.acquire()
    [message] = receiver.received
    Webhooks.validate(  # raises if it is not
        headers=message.headers,
        body=message.body.decode(),
        secret=WebhookSigningSecret(key=SECRET),
        tolerance=300,
    )
    told = json.loads(message.body)
    assert (told["id"], told["status"]) == (prediction.id, "succeeded")
    assert told["output"][0].startswith("https://images.example.com/v1/files/")
    assert told["warnings"] == [
        "webhook_events_filter: only `completed` is sent, not start, output, logs"
    ]


def test_a_client_that_leaves_while_it_waits_cancels_nothing(
    client: Client, served: Live, graph: SteppingGraph
):
    entered = asyncio.run_coroutine_threadsafe(graph.entered.acquire(), served.loop)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{served.url}/v1/predictions",
            json={"input": {"prompt": "a cat", "seed": 5}},
            headers={"prefer": "wait", "idempotency-key": "left by its client"},
            timeout=httpx.Timeout(30.0, read=0.5),
        )
    entered.result()
    served.call(graph.allow)
    answer = httpx.post(
        f"{served.url}/v1/predictions",
        json={"input": {"prompt": "a cat", "seed": 5}},
        headers={"prefer": "wait", "idempotency-key": "left by its client"},
        timeout=60,
    )
    assert answer.json()["status"] == "succeeded"
    assert graph.drawn == [5]
