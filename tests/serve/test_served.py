"""The whole product on a real cluster, over HTTP through Serve's proxy."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import openai
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from serve.api.schemas import parse_request
from serve.cli.drawing import LocalDrawing
from serve.load.server_load import ServerLoad
from serve.settings.settings import Settings
from tests.cluster import ongoing, paused, replica_processes, wait_until
from tests.serve.leaving import leaving_client
from tests.serve.woken import APP, BODY_TIMEOUT_S, STAGES, Woken

pytestmark = pytest.mark.cluster

URL = "/v1/images/generations"
PROMPT = "a red circle on a white background"
LONG = {"prompt": PROMPT, "size": "512x512", "num_inference_steps": 100, "n": 4}


@pytest.fixture
def client(woken: Woken) -> httpx.Client:
    """A client of the application, with places for two images."""
    return woken.client


def wait_until_ready(client: httpx.Client) -> None:
    wait_until(lambda: client.get("/readyz").status_code == 200)


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_every_stage_is_named(client: httpx.Client):
    stages = client.get("/readyz").json()["stages"]
    assert set(stages) == {"TextEncoder", "Denoiser", "VaeDecoder", "SafetyClassifier", "Finisher"}


def test_the_image_is_the_local_chains(client: httpx.Client):
    body = {"prompt": PROMPT, "seed": 11, "n": 2, "size": "96x64"}
    response = client.post(URL, json=body)
    assert response.status_code == 200, response.text
    drawing = LocalDrawing(Settings.load())
    local = drawing.draw(drawing.plan(parse_request(body)), lambda _: None)
    for here, there in zip(local, response.json()["data"], strict=True):
        assert here.seed == there["seed"]
        data = base64.b64decode(there["b64_json"])
        assert client.get(there["url"]).content == data
        difference = np.abs(pixels(here.data) - pixels(data))
        assert difference.max() <= 1
        assert (difference == 0).mean() >= 0.999


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_receipt_is_of_the_replicas_that_run(client: httpx.Client, kind: str):
    body = {"prompt": PROMPT, "seed": 12, "quality": "low", "output_format": kind}
    file = base64.b64decode(client.post(URL, json=body).json()["data"][0]["b64_json"])
    headers = {"content-type": f"image/{kind}"}
    read = client.post("/v1/receipts/read", content=file, headers=headers)
    assert read.status_code == 200, read.text
    told = read.json()
    assert (told["differences"], told["reproducible"]) == ([], True)
    drawn = client.post(URL, json=told["request"]).json()["data"][0]
    assert base64.b64decode(drawn["b64_json"]) == file


def test_timings_name_the_phases(client: httpx.Client):
    timing = client.post(URL, json={"prompt": PROMPT}).headers["server-timing"]
    for phase in ("encode", "denoise", "decode", "safety", "finish"):
        assert f"{phase};dur=" in timing


def test_one_request_id_comes_back(client: httpx.Client):
    response = client.get("/healthz", headers={"x-request-id": "mine"})
    assert response.headers.get_list("x-request-id") == ["mine"]
    assert len(client.get("/nothing").headers.get_list("x-request-id")) == 1


READ_BY_SERVE = (
    "x-request-id",
    "x-session-id",
    "serve_multiplexed_model_id",
    "x-request-timeout-seconds",
    "x-request-disconnect-disabled",
)


@pytest.mark.parametrize("name", [*READ_BY_SERVE, "traceparent", "user-agent", "x-unknown"])
def test_no_header_fails_for_its_bytes(client: httpx.Client, name: str):
    """Serve's proxies answer those that they read as UTF-8 with a plain 500."""
    answer = client.get("/healthz", headers=[(name.encode(), b"caf\xe9")])
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("given", ["", "two words", "x" * 5000, "caf\xe9"])
def test_the_id_of_the_answer_is_that_of_its_trace_and_sane(client: httpx.Client, given: str):
    answer = client.post(URL, json={}, headers=[(b"x-request-id", given.encode("latin-1"))])
    assert answer.status_code == 400
    (request_id,) = answer.headers.get_list("x-request-id")
    assert request_id.startswith("req-")
    trace = client.get(f"/v1/traces/{answer.headers['x-trace-id']}")
    assert f'"stringValue":"{request_id}"' in trace.text


def test_the_metrics_of_this_node(client: httpx.Client):
    answer = client.get("/metrics")
    assert answer.status_code == 200, answer.text
    families = {family.name for family in text_string_to_metric_families(answer.text)}
    assert "ray_node_mem_used" in families


def test_what_the_application_has_to_do(client: httpx.Client):
    body = {"prompt": PROMPT, "deadline_ms": 600_000}
    assert client.post(URL, json=body).status_code == 200

    def told() -> ServerLoad:
        return ServerLoad.model_validate_json(client.get("/load").raise_for_status().content)

    def has_ticked() -> bool:
        load = told()
        return bool(load.denoisers and load.denoisers[0].tick_tokens)

    wait_until(has_ticked)  # a denoiser tells of its ticks once a second
    load = told()
    assert load.deployments is not None
    replicas = {each.name: each.replicas.get("RUNNING") for each in load.deployments}
    assert set(replicas) == {*STAGES, "ImageEncoder", "Ingress"}
    assert load.denoisers is not None
    (denoiser,) = load.denoisers
    assert replicas["Denoiser"] == 1
    assert (denoiser.tick_tokens or 0) > 0
    assert (denoiser.knee_tokens or 0) > 0
    assert load.ingress_replicas == 1
    assert load.requests.outcomes["ok"] >= 1
    assert load.deadlines.met >= 1
    assert load.jobs is not None


def test_what_a_proxy_says_is_used_as_a_whole(client: httpx.Client):
    """Below, uvicorn takes scheme and client, and leaves the host."""
    said = {"proto": "https", "host": "images.example", "for": "192.0.2.1"}
    headers = {f"x-forwarded-{name}": text for name, text in said.items()}
    answer = client.post(URL, json={"prompt": PROMPT}, headers=headers)
    assert answer.json()["data"][0]["url"].startswith("https://images.example/served/v1/files/")


def test_bodies_may_be_packed_and_files_may_be_had_in_parts(client: httpx.Client):
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    body = gzip.compress(json.dumps({"prompt": PROMPT}).encode())
    url = client.post(URL, content=body, headers=headers).json()["data"][0]["url"]
    whole, head = client.get(url), client.head(url)
    part = client.get(url, headers={"range": "bytes=1-3", "if-range": whole.headers["etag"]})
    assert (part.status_code, part.content) == (206, b"PNG")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(whole.content))
    known = client.get(url, headers={"if-none-match": whole.headers["etag"]})
    assert (known.status_code, known.content) == (304, b"")


def test_health_is_answered_while_bodies_trickle(client: httpx.Client):
    """More than there are places for generations, a few bytes each."""
    address = (client.base_url.host, client.base_url.port)
    head = f"POST /served{URL} HTTP/1.1\r\nhost: here\r\ncontent-type: application/json\r\n"
    with contextlib.ExitStack() as stack:
        slow = []
        for _ in range(300):
            slow.append(stack.enter_context(socket.create_connection(address)))
            slow[-1].sendall(f"{head}content-length: 100\r\n\r\n{{".encode())
        for path in ("/healthz", "/readyz", "/v1/models"):
            assert client.get(path).status_code == 200
        assert client.post(URL, json={"prompt": PROMPT}).status_code == 200
        for each in slow:
            each.settimeout(2 * BODY_TIMEOUT_S)
            assert each.recv(100).startswith(b"HTTP/1.1 408 ")


def test_a_body_of_50_mb_and_then_a_good_request(client: httpx.Client):
    response = client.post(URL, json={"prompt": "x" * 50_000_000})
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"
    assert client.post(URL, json={"prompt": PROMPT}).status_code == 200


@pytest.mark.parametrize("extra", [{}, {"stream": True}], ids=["waiting", "streaming"])
def test_a_client_that_leaves_frees_its_place(woken: Woken, extra: dict[str, bool]):
    """Two places, which each of three requests takes: its work must end before it is done."""
    for _ in range(3):
        before = woken.engine()
        with leaving_client(woken.client.base_url, URL, {**LONG, **extra}):
            wait_until(lambda before=before: woken.engine().steps > before.steps)
        wait_until(lambda: woken.engine().works == 0)
        assert woken.engine().finished == before.finished
        # That the engine knows it does not mean that the ingress has heard.
        wait_until(lambda: ongoing("Ingress", app=APP) == 0)
    response = woken.client.post(URL, json={"prompt": PROMPT})
    assert response.status_code == 200, response.text


def test_a_deadline_that_cannot_be_met_is_refused_with_the_shortest_that_can(client: httpx.Client):
    refused = client.post(URL, json={**LONG, "deadline_ms": 50})
    assert refused.status_code == 429, refused.text
    error = refused.json()["error"]
    assert error["code"] == "deadline_unreachable"
    assert error["message"].startswith("deadline_ms: 50 cannot be met")
    assert error["earliest_deadline_ms"] > 50
    assert refused.headers["x-should-retry"] == "false"
    in_time = client.post(URL, json={"prompt": PROMPT, "deadline_ms": 60_000})
    assert in_time.status_code == 200, in_time.text


def test_quality_low_runs_fewer_forwards(client: httpx.Client):
    full, low = (
        client.post(URL, json={"prompt": PROMPT, "quality": quality}).json()["data"][0]["steps"]
        for quality in ("medium", "low")
    )
    assert 0 < low < full


def test_equal_requests_are_drawn_once_and_outlive_the_first_that_asked(woken: Woken):
    client = woken.client
    body = {"prompt": PROMPT, "seed": 3, "size": "256x256", "num_inference_steps": 60}
    denoisers = replica_processes("Denoiser", app=APP)
    with ThreadPoolExecutor(1) as pool:
        with paused(denoisers):  # so that both wait for the same image
            with leaving_client(client.base_url, URL, body):
                wait_until(lambda: ongoing("Ingress", app=APP) == 1)
                later = pool.submit(client.post, URL, json=body)
                wait_until(lambda: ongoing("Ingress", app=APP) == 2)
                # What came after it has been answered, so it has been read.
                assert woken.preflight(**body)["parameters"]["seed"] == 3
            wait_until(lambda: ongoing("Ingress", app=APP) == 1)
        staying = later.result()
    assert staying.status_code == 200, staying.text
    assert staying.headers["x-sluice-cache"] == "shared"
    alone = client.post(URL, json=body)
    assert "x-sluice-cache" not in alone.headers
    images = [answer.json()["data"][0]["b64_json"] for answer in (staying, alone)]
    assert images[0] == images[1]


def test_an_image_as_a_stream(client: httpx.Client):
    base_url = f"{str(client.base_url).rstrip('/')}/v1"
    with openai.OpenAI(api_key="unused", base_url=base_url, max_retries=0) as sdk:
        stream = sdk.images.generate(prompt=PROMPT, stream=True, extra_body={"seed": 5})
        (completed,) = stream
        alone = sdk.images.generate(prompt=PROMPT, extra_body={"seed": 5})
    assert isinstance(completed, openai.types.ImageGenCompletedEvent)
    assert alone.data is not None
    assert completed.b64_json == alone.data[0].b64_json
    assert completed.usage.total_tokens > 0


def test_the_openai_client(client: httpx.Client):
    base_url = f"{str(client.base_url).rstrip('/')}/v1"
    with openai.OpenAI(api_key="unused", base_url=base_url, max_retries=0) as sdk:
        answer = sdk.images.generate(prompt=PROMPT, extra_body={"seed": 5})
        assert answer.data is not None
        assert pixels(base64.b64decode(answer.data[0].b64_json or "")).shape == (64, 64, 3)
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.images.generate(prompt=PROMPT, n=0)
        assert (caught.value.param, caught.value.code) == ("n", "invalid_value")
        assert caught.value.request_id
