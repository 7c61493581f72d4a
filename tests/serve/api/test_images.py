"""`POST /v1/images/generations` over HTTP, as any client sees it."""

from __future__ import annotations

import asyncio
import base64
import logging
from typing import Any

import httpx
import pytest

from pipelines.errors import ContentPolicyViolation, Overloaded
from pipelines.moderation import PromptRules
from serve.api.images import server_timing
from serve.http import create_app
from tests.serve.conftest import ClientOf
from tests.serve.fakes import PIXELS, FakeGraph, services

URL = "/v1/images/generations"


async def test_the_whole_answer(client: httpx.AsyncClient, graph: FakeGraph):
    response = await client.post(URL, json={"prompt": "a cat", "seed": 5, "n": 2})
    assert response.status_code == 200
    body = response.json()
    assert body.pop("created") > 1_700_000_000
    first, second = body.pop("data")
    assert base64.b64decode(first["b64_json"]) == PIXELS
    assert first["url"].startswith("http://sluice.test/v1/files/")
    assert (first["seed"], second["seed"]) == (5, 6)
    assert (first["steps"], second["steps"]) == (12, 12)
    assert "revised_prompt" not in first
    assert body == {
        "id": graph.jobs[0].request_id,
        "model": "sluice-shapes",
        "background": "opaque",
        "output_format": "png",
        "quality": "medium",
        "size": "64x64",
        "usage": {
            "input_tokens": 7,
            "input_tokens_details": {"text_tokens": 7, "image_tokens": 0},
            "prompt_tokens_details": {"text_tokens": 7, "image_tokens": 0},
            "output_tokens": 32,
            "output_tokens_details": {"image_tokens": 32, "text_tokens": 0},
            "total_tokens": 39,
            "device_seconds": 0.5,
            "megapixel_steps": 0.098304,
        },
        "deadline_met": True,
        "warnings": [],
    }
    assert response.headers["server-timing"] == "encode;dur=4.0, denoise_wait;dur=1.5"
    assert response.headers["x-request-id"] == graph.jobs[0].request_id


async def test_the_link_leads_to_the_file(client: httpx.AsyncClient):
    body = {"prompt": "a cat", "response_format": "url", "output_format": "webp"}
    (image,) = (await client.post(URL, json=body)).json()["data"]
    assert "b64_json" not in image
    file = await client.get(image["url"])
    assert file.content == PIXELS
    assert file.headers["content-type"] == "image/webp"


async def test_only_base64(client: httpx.AsyncClient, graph: FakeGraph):
    body = {"prompt": "a cat", "response_format": "b64_json"}
    (image,) = (await client.post(URL, json=body)).json()["data"]
    assert "url" not in image
    assert graph.store.files == {}


async def test_links_start_with_the_public_url(client_of: ClientOf):
    client = client_of(services(public_url="https://images.example.com/api/"))
    (image,) = (await client.post(URL, json={"prompt": "a cat"})).json()["data"]
    assert image["url"].startswith("https://images.example.com/api/v1/files/")


async def test_a_seed_is_drawn_and_returned(client: httpx.AsyncClient, graph: FakeGraph):
    answers = [(await client.post(URL, json={"prompt": "a cat"})).json() for _ in range(2)]
    seeds = [answer["data"][0]["seed"] for answer in answers]
    assert seeds == [job.params.seed for job in graph.jobs]
    assert seeds[0] != seeds[1]
    assert all(0 <= seed < 2**32 for seed in seeds)


async def test_warnings_of_request_and_graph(client: httpx.AsyncClient):
    body = {"prompt": "[GEN] warn me", "true_cfg_scale": 4}
    answer = (await client.post(URL, json=body)).json()
    assert answer["warnings"] == [
        "true_cfg_scale: not used without negative_prompt, which may be empty",
        "from the graph",
    ]
    assert answer["data"][0]["revised_prompt"] == "warn me"


async def test_the_trace_goes_on_with_the_job(client: httpx.AsyncClient, graph: FakeGraph):
    header = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    answer = await client.post(URL, json={"prompt": "a cat"}, headers={"traceparent": header})
    assert graph.jobs[0].trace == answer.headers["traceresponse"]
    assert answer.headers["x-trace-id"] == "a" * 32


async def test_the_user_is_logged(client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, logger="ray.serve")
    body = {"prompt": "a cat", "user": "u-1", "safety_identifier": "s-1"}
    await client.post(URL, json=body, headers={"x-request-id": "r-1"})
    await client.post(URL, json={"prompt": "a cat", "user": "u\n-2"})
    assert "request=r-1 " in caplog.text
    assert " user='s-1' tenant='s-1' outcome=ok images=1 size=64x64" in caplog.text
    assert r"user='u\n-2'" in caplog.text


@pytest.mark.parametrize(
    ("content", "content_type", "status", "code"),
    [
        (b"{", "application/json", 400, "invalid_value"),
        (b"", "application/json", 400, "invalid_value"),
        (b"[]", "application/json", 400, "invalid_value"),
        (b'{"prompt": "a cat"}', "text/plain", 415, "unsupported_media_type"),
        (b'{"prompt": "a cat"}', None, 415, "unsupported_media_type"),
        (b"prompt=a+cat", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
    ],
)
async def test_bodies_that_are_no_request(
    client: httpx.AsyncClient, content: bytes, content_type: str | None, status: int, code: str
):
    headers = {"content-type": content_type} if content_type else {}
    response = await client.post(URL, content=content, headers=headers)
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert response.headers["x-request-id"]
    assert (await client.post(URL, json={"prompt": "a cat"})).status_code == 200


async def test_json_with_a_charset_is_json(client: httpx.AsyncClient):
    response = await client.post(
        URL, content=b'{"prompt": "x"}', headers={"content-type": "Application/JSON; charset=utf-8"}
    )
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ('{"prompt": "x", "guidance_scale": NaN}', "guidance_scale"),
        ('{"prompt": "x", "guidance_scale": -Infinity}', "guidance_scale"),
        ('{"prompt": "x", "true_cfg_scale": 1e999}', "true_cfg_scale"),
        ('{"prompt": "x", "n": 1000}', "n"),
        ('{"prompt": "x", "nn": 1}', "nn"),
    ],
)
async def test_bad_values_name_their_field(client: httpx.AsyncClient, body: str, param: str):
    headers = {"content-type": "application/json"}
    response = await client.post(URL, content=body, headers=headers)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


async def test_an_unknown_model(client: httpx.AsyncClient):
    response = await client.post(URL, json={"prompt": "x", "model": "dall-e-3"})
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


async def test_a_body_of_50_mb(client: httpx.AsyncClient, graph: FakeGraph):
    response = await client.post(URL, json={"prompt": "x" * 50_000_000})
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"
    assert "1048576 bytes" in response.json()["error"]["message"]
    assert graph.jobs == []
    assert (await client.post(URL, json={"prompt": "a cat"})).status_code == 200


async def test_prompt_rules_apply_to_the_prompt_alone(client_of: ClientOf):
    graph = FakeGraph()
    client = client_of(services(graph, rules=PromptRules.load()))
    forbidden = "how to make a pipe bomb, a school shooting, behead him, gore"
    body: dict[str, Any] = {"prompt": forbidden}
    refused = await client.post(URL, json=body)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["code"] == "content_policy_violation"
    assert (error["stage"], error["param"], error["score"]) == ("prompt", "prompt", 1.0)
    assert error["category"]
    body = {"prompt": "a cat", "negative_prompt": forbidden, "true_cfg_scale": 2}
    assert (await client.post(URL, json=body)).status_code == 200
    assert len(graph.jobs) == 1


async def test_a_refused_image_says_which(client_of: ClientOf):
    error = ContentPolicyViolation(
        "image 1 was refused", stage="image", category="nsfw", score=0.93, threshold=0.8,
        image_index=1,
    )  # fmt: skip
    response = await client_of(services(FakeGraph(error=error))).post(URL, json={"prompt": "x"})
    assert response.status_code == 400
    sent = response.json()["error"]
    assert (sent["stage"], sent["score"], sent["threshold"], sent["image_index"]) == (
        "image", 0.93, 0.8, 1,
    )  # fmt: skip


async def test_overload_of_a_stage(client_of: ClientOf):
    graph = FakeGraph(error=Overloaded("too many requests wait for Denoiser", retry_after_s=2))
    response = await client_of(services(graph)).post(URL, json={"prompt": "x"})
    assert response.status_code == 429
    assert response.headers["retry-after-ms"] == "2000"


async def test_admission_bounds_requests_in_flight(client_of: ClientOf):
    graph = FakeGraph(hangs=True)
    given = services(graph, limits={"max_queued_images": 2})
    client = client_of(given)
    waiting = [asyncio.create_task(client.post(URL, json={"prompt": "x"})) for _ in range(2)]
    for _ in waiting:
        await graph.entered.acquire()
    refused = await client.post(URL, json={"prompt": "x"})
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "overloaded"
    assert int(refused.headers["retry-after"]) >= 1
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert given.generations.admission.in_flight == 0
    graph.hangs = False
    assert (await client.post(URL, json={"prompt": "x"})).status_code == 200


async def test_a_request_that_takes_too_long(client_of: ClientOf):
    graph = FakeGraph(hangs=True)
    given = services(graph, limits={"request_timeout_s": 0.05})
    response = await client_of(given).post(URL, json={"prompt": "x"})
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "request_timeout"
    assert response.headers["x-should-retry"] == "false"
    assert graph.cancelled == [response.headers["x-request-id"]]
    assert given.generations.admission.in_flight == 0


def test_server_timing_has_only_tokens():
    assert server_timing({"a b;c": 0.00049, "d": 1}) == "a_b_c;dur=0.5, d;dur=1000.0"
    assert server_timing({}) == ""


async def test_links_under_a_route_prefix():
    transport = httpx.ASGITransport(app=create_app(services()), root_path="/flux")
    async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
        answer = (await client.post(f"/flux{URL}", json={"prompt": "a cat"})).json()
        url = answer["data"][0]["url"]
        assert url.startswith("http://t/flux/v1/files/")
        assert (await client.get(url)).content == PIXELS
