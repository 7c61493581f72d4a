"""fal's own client, unmodified, against the queue over jobs, through TLS as it wants it."""

from __future__ import annotations

import base64
import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from pipelines.errors import ContentPolicyViolation, DegenerateImage
from tests.serve.api.vendors.conftest import ServedOf
from tests.serve.jobs.stepping_graph import SteppingGraph
from tests.serve.live import Live
from tests.serve.webhooks.receiver import Authority, receiving

APP = "sluice/test-model"
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()

Client = Any
ClientOf = Callable[..., tuple[Live, Client]]


@pytest.fixture
def client_of(
    served_of: ServedOf, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ClientOf]:
    """Serves an application over TLS, and makes a client of it. The client reads the environment
    when it is imported, so that is done anew."""
    before = {name: module for name, module in sys.modules.items() if _is_fal(name)}
    made: list[Client] = []

    def make(**settings: Any) -> tuple[Live, Client]:
        served = served_of(authority.issue("localhost"), **settings)
        host = served.url.removeprefix("https://").replace("127.0.0.1", "localhost")
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        monkeypatch.setenv("FAL_QUEUE_RUN_HOST", f"{host}/fal")
        monkeypatch.setenv("FAL_KEY", "unused")
        _forget_fal()
        made.append(importlib.import_module("fal_client").SyncClient())
        return served, made[-1]

    yield make
    for client in made:
        client._client.close()
        client._client._transport.close()
    _forget_fal()
    sys.modules.update(before)


def _is_fal(name: str) -> bool:
    return name == "fal_client" or name.startswith("fal_client.")


def _forget_fal() -> None:
    for name in [name for name in sys.modules if _is_fal(name)]:
        del sys.modules[name]


def fal() -> ModuleType:
    """The client's package as it was imported last."""
    return sys.modules["fal_client"]


def test_subscribe_with_logs(client_of: ClientOf, graph: SteppingGraph):
    served, client = client_of()
    seen: list[Any] = []
    ids: list[str] = []

    def updated(update: Any) -> None:
        seen.append(update)
        # Two steps, then all: so that progress can be seen.
        if isinstance(update, fal().InProgress):
            lines = [line["message"] for line in update.logs]
            served.call(graph.allow if any("2/4" in line for line in lines) else lambda: None)

    def enqueued(request_id: str) -> None:
        ids.append(request_id)
        served.call(lambda: graph.allow(2))

    result = client.subscribe(
        APP,
        {
            "prompt": "a cat",
            "seed": 7,
            "num_inference_steps": 4,
            "num_images": 1,
            "image_size": {"width": 128, "height": 64},
            "enable_safety_checker": True,
            "acceleration": "high",
        },
        with_logs=True,
        on_enqueue=enqueued,
        on_queue_update=updated,
    )
    [image] = result["images"]
    assert (image["width"], image["height"], image["content_type"]) == (128, 64, "image/png")
    assert (result["seed"], result["prompt"]) == (7, "a cat")
    assert result["has_nsfw_concepts"] == [False]
    assert result["warnings"] == [
        "acceleration: not used; nothing is cached between steps;"
        " `quality: low` takes some of them without a forward"
    ]
    assert image["url"].startswith("https://localhost:")
    done = seen[-1]
    assert isinstance(done, fal().Completed)
    assert done.error is None
    assert done.metrics["inference_time"] >= 0
    messages = [line["message"] for line in done.logs]
    assert messages[0] == "Using seed: 7"
    assert messages[-1] == "100%|██████████| 4/4"
    assert any(
        "2/4" in line["message"]
        for update in seen
        if isinstance(update, fal().InProgress)
        for line in update.logs
    )
    assert len(ids) == 1


def test_submit_status_and_result(client_of: ClientOf, graph: SteppingGraph):
    served, client = client_of(**{"jobs.max_running": 1})
    first = client.submit(APP, {"prompt": "a cat", "num_inference_steps": 2})
    second = client.submit(APP, {"prompt": "a dog"})
    while not isinstance(client.status(APP, first.request_id), fal().InProgress):
        pass
    waiting = second.status()
    assert isinstance(waiting, fal().Queued)
    assert waiting.position == 0
    assert first.status().logs is None
    assert httpx.get(first.status_url).status_code == 202
    with pytest.raises(fal().FalClientHTTPError, match="still in progress") as caught:
        fal().client._request(client._client, "GET", first.response_url)
    assert caught.value.status_code == 400
    served.call(graph.allow)
    assert client.result(APP, first.request_id)["images"]
    assert httpx.get(first.status_url).status_code == 200
    assert second.get()["images"]


def test_cancel(client_of: ClientOf, graph: SteppingGraph):
    served, client = client_of()
    handle = client.submit(APP, {"prompt": "a cat"})
    while not isinstance(handle.status(), fal().InProgress):
        pass
    handle.cancel()
    for status in handle.iter_events(with_logs=True):
        last = status
    assert (last.error, last.error_type) == ("the request was cancelled", "client_cancelled")
    with pytest.raises(fal().FalClientHTTPError, match="was cancelled"):
        handle.get()
    with pytest.raises(fal().FalClientHTTPError, match="is over already"):
        handle.cancel()
    assert graph.cancelled == [handle.request_id]
    assert served.services.jobs is not None


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (DegenerateImage("the image is all one value"), 500, "degenerate_image"),
        (
            ContentPolicyViolation(
                "the image was refused", stage="image", category="x", score=0.9, threshold=0.8
            ),
            400,
            "content_policy_violation",
        ),
    ],
)
def test_a_failure_is_told(
    client_of: ClientOf, graph: SteppingGraph, error: Any, status: int, code: str
):
    _, client = client_of()
    graph.errors.append(error)
    handle = client.submit(APP, {"prompt": "a cat"})
    with pytest.raises(fal().FalClientHTTPError) as caught:
        handle.get()
    assert (caught.value.status_code, caught.value.message) == (status, error.message)
    done = handle.status(with_logs=True)
    assert (done.error, done.error_type) == (error.message, code)
    assert done.logs[-1]["level"] == "ERROR"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"prompt": "a cat", "loras": [{"path": "x"}]}, "loras: adapters"),
        (
            {"prompt": "a cat", "image_url": "file:///etc/passwd"},
            "image: must be a file",
        ),
        ({"prompt": "a cat", "sede": 1}, "sede: unknown field; did you mean `seed`?"),
        ({"prompt": "a cat", "model": "none"}, "model: contradicts the URL"),
        ({}, "prompt: required"),
    ],
)
def test_refused_by_name(client_of: ClientOf, arguments: dict[str, Any], says: str):
    _, client = client_of()
    with pytest.raises(fal().FalClientHTTPError) as caught:
        client.submit(APP, arguments)
    assert says in caught.value.message
    assert caught.value.status_code == 400
    assert caught.value.error_type in ("invalid_value", "unsupported_feature")


def test_other_models_and_requests(client_of: ClientOf):
    _, client = client_of()
    for app in ("fal-ai/flux/dev", "fal-ai/flux"):
        with pytest.raises(fal().FalClientHTTPError, match="is not served here") as caught:
            client.submit(app, {"prompt": "a cat"})
        assert (caught.value.status_code, caught.value.error_type) == (404, "model_not_found")
    with pytest.raises(fal().FalClientHTTPError) as caught:
        client.status(APP, "job_none")
    assert (caught.value.status_code, caught.value.error_type) == (404, "job_not_found")


def test_a_model_with_a_path(client_of: ClientOf, graph: SteppingGraph):
    served, client = client_of(served_model_name="flux/dev")
    served.call(graph.allow)
    handle = client.submit("fal-ai/flux/dev", {"prompt": "a cat"})
    assert client.result("fal-ai/flux/dev", handle.request_id)["images"]


def test_headers(client_of: ClientOf, graph: SteppingGraph):
    served, client = client_of()
    served.call(graph.allow)
    handle = client.submit(APP, {"prompt": "a cat"}, priority="low", hint="here", start_timeout=30)
    assert handle.get()["warnings"] == [
        "x-fal-request-timeout: not used; write `deadline_ms`, in which the images are wanted",
        "x-fal-runner-hint: not used; this server finds the place itself",
    ]
    answer = httpx.get(
        f"{served.url.replace('127.0.0.1', 'localhost')}/v1/jobs/{handle.request_id}"
    )
    assert answer.json()["request"]["priority"] == -1


def test_a_user_is_named_when_a_request_is_made_and_not_when_it_is_asked_for(
    client_of: ClientOf, graph: SteppingGraph
):
    served, client = client_of()
    handle = client.submit(APP, {"prompt": "a cat", "user": "anna"})
    assert not isinstance(handle.status(), fal().Completed)
    served.call(graph.allow)
    assert handle.get()["images"]
    start = served.url.replace("127.0.0.1", "localhost")
    [listed] = httpx.get(f"{start}/v1/jobs", params={"user": "anna"}).json()["data"]
    assert listed["id"] == handle.request_id
    assert httpx.get(f"{start}/v1/jobs/{handle.request_id}").status_code == 404


def test_a_job_of_another_api_is_none_of_fals(client_of: ClientOf):
    served, client = client_of()
    start = served.url.replace("127.0.0.1", "localhost")
    job = httpx.post(f"{start}/v1/jobs", json={"prompt": "a cat"}).json()
    with pytest.raises(fal().FalClientHTTPError) as caught:
        client.status(APP, job["id"])
    assert caught.value.status_code == 404


def test_a_webhook_in_fals_words(
    client_of: ClientOf, graph: SteppingGraph, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SLUICE_WEBHOOKS__SECRET", SECRET)
    with receiving() as receiver:
        served, client = client_of(
            **{
                "webhooks.allow": f"http://127.0.0.1:{receiver.port}",
                "webhooks.allow_private": True,
            }
        )
        with pytest.raises(fal().FalClientHTTPError, match=r"fal_webhook: .* is not allowed here"):
            client.submit(APP, {"prompt": "a cat"}, webhook_url="http://169.254.169.254/")
        graph.errors.append(DegenerateImage("the image is all one value"))
        url = f"http://127.0.0.1:{receiver.port}/hook?a=b&c=d"
        failed = client.submit(APP, {"prompt": "a cat"}, webhook_url=url)
        receiver.arrived.acquire()
        served.call(graph.allow)
        drawn = client.submit(APP, {"prompt": "a cat"}, webhook_url=url)
        receiver.arrived.acquire()
        told = [Webhook(SECRET).verify(m.body, m.headers) for m in receiver.received]
        assert [m.path for m in receiver.received] == ["/hook?a=b&c=d"] * 2
    assert told[0] == {
        "request_id": failed.request_id,
        "gateway_request_id": failed.request_id,
        "payload": None,
        "status": "ERROR",
        "error": "the image is all one value",
        "error_type": "degenerate_image",
    }
    assert (told[1]["request_id"], told[1]["status"]) == (drawn.request_id, "OK")
    images = told[1]["payload"]["images"]
    assert images[0]["url"].startswith("/v1/files/")
    assert told[1]["payload"] == drawn.get() | {"images": images}
