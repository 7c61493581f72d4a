"""`POST /v1/receipts/read`."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from deployments.graph.running_stages import Running
from pipelines.provenance import Provenance, combined_weights
from serve.api.services import Services
from serve.http import create_app
from tests.deployments.receipts import FINISH, PARAMS, STAGES, VERSIONS, file_with, receipt
from tests.serve.conftest import ClientOf
from tests.serve.fakes import services

URL = "/v1/receipts/read"
PNG = {"content-type": "image/png"}


def running(stages: Provenance = STAGES, **settings: Any) -> Services:
    """Services of an application whose stages are these."""

    async def ask() -> Running:
        return Running(stages)

    given = services(**settings)
    given.running = ask
    return given


async def read(client: httpx.AsyncClient, file: bytes, kind: str = "png") -> httpx.Response:
    return await client.post(URL, content=file, headers={"content-type": f"image/{kind}"})


async def refusal(client: httpx.AsyncClient, file: bytes) -> str:
    response = await read(client, file)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["code"] == "invalid_value"
    return error["message"]


def changed(**fields: Any) -> bytes:
    """A file whose receipt's request has other fields."""
    content = json.loads(receipt())
    content["request"] = {
        name: value for name, value in {**content["request"], **fields}.items() if value != "none"
    }
    return file_with(json.dumps(content))


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
async def test_what_a_file_says(client_of: ClientOf, output_format: str):
    finish = replace(FINISH, output_format=output_format, output_compression=77)
    response = await read(
        client_of(running()), file_with(receipt(finish=finish), output_format), output_format
    )
    assert response.status_code == 200, response.text
    compression = {} if output_format == "png" else {"output_compression": 77}
    assert response.json() == {
        "request": {
            "prompt": "a cat\non a mat",
            "negative_prompt": "blurry",
            "true_cfg_scale": 3.0,
            "model": "test-model",
            "n": 1,
            "size": "80x64",
            "num_inference_steps": 12,
            "guidance_scale": 3.5,
            "seed": 6,
            "skip_steps": False,
            "output_format": output_format,
            **compression,
        },
        "model": "test-model",
        "weights": combined_weights((stage.part, stage.weights) for stage in STAGES),
        "versions": dict(VERSIONS),
        "steps": 11,
        "reproducible": True,
        "differences": [],
    }


async def test_a_form(client_of: ClientOf):
    files = {"file": ("a.png", file_with(receipt()), "image/png")}
    response = await client_of(running()).post(URL, files=files)
    assert response.json()["steps"] == 11


async def test_what_differs_is_named(client_of: ClientOf):
    stages = (*STAGES[:2], replace(STAGES[2], weights="d" * 64))
    told = (await read(client_of(running(stages)), file_with(receipt()))).json()
    assert told["reproducible"] is False
    assert told["differences"] == [
        {"what": "weights", "part": "vae", "file": "c" * 64, "here": "d" * 64}
    ]


async def test_a_file_of_another_model_still_says_what_it_was(client_of: ClientOf):
    file = file_with(receipt(finish=replace(FINISH, model="another")))
    told = (await read(client_of(running()), file)).json()
    assert told["request"]["model"] == told["model"] == "another"
    (difference,) = told["differences"]
    assert difference["what"] == "model"
    assert difference["file"] == "another"


async def test_a_request_that_is_refused_here(client_of: ClientOf):
    given = running(limits={"max_steps": 5})
    told = (await read(client_of(given), file_with(receipt()))).json()
    assert told["reproducible"] is False
    (difference,) = told["differences"]
    assert difference["what"] == "request"
    assert difference["here"].startswith("num_inference_steps: ")


async def test_where_nothing_runs(client: httpx.AsyncClient):
    told = (await read(client, file_with(receipt()))).json()
    assert told["reproducible"] is False
    assert {each["here"] for each in told["differences"]} == {None}
    assert [each["part"] for each in told["differences"]] == [each.part for each in STAGES]


async def test_files_without_a_receipt(client: httpx.AsyncClient):
    assert "the file has no receipt" in await refusal(client, file_with(""))
    assert "the file is not whole" in await refusal(client, file_with(receipt())[:-20])
    assert "no image of a kind drawn here" in await refusal(client, b"hello")
    assert "no image of a kind drawn here" in await refusal(client, b"")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"prompt": 1}, "its request is none: prompt"),
        ({"prompt": "none"}, "its prompt and seed"),
        ({"prompt": "a \x00 b"}, "control character"),
        ({"prompt": "a \ud800 b"}, "lone surrogate"),
        ({"seed": "none"}, "its prompt and seed"),
        ({"seed": "7"}, "its request is none: seed"),
        ({"seed": 1.5}, "its request is none: seed"),
        ({"n": 10}, "one for this image"),
        ({"n": True}, "its request is none: n"),
        ({"step_cuts": [[1]]}, "its request is none: step_cuts"),
        ({"size": {"a": [[[]]]}}, "its request is none: size"),
        ({"guidance_scale": 10**400}, "its request is none: guidance_scale"),
        ({"user": "another"}, "a field 'user'"),
        ({"webhook_url": "http://169.254.169.254/"}, "a field 'webhook_url'"),
        ({"image": "/etc/passwd"}, "a field 'image'"),
    ],
)
async def test_a_request_that_is_none(client: httpx.AsyncClient, fields: dict[str, Any], why: str):
    message = await refusal(client, changed(**fields))
    assert message.startswith("the file's receipt is damaged: ")
    assert why in message


async def test_a_prompt_is_told_as_it_was(client_of: ClientOf):
    prompt = "--ar 16:9 <b> & 'c' \U0001f408 ]]>\n" * 20
    file = file_with(receipt(replace(PARAMS, prompt=prompt)), "jpeg")
    response = await read(client_of(running(limits={"max_prompt_chars": 10_000})), file, "jpeg")
    assert response.json()["request"]["prompt"] == prompt


@pytest.mark.parametrize("content_type", ["application/json", "", "text/html", "multipart/mixed"])
async def test_another_content_type(client: httpx.AsyncClient, content_type: str):
    headers = {"content-type": content_type} if content_type else {}
    response = await client.post(URL, content=file_with(receipt()), headers=headers)
    assert response.status_code == 415
    assert "must be 'image/...' or 'multipart/form-data'" in response.json()["error"]["message"]


async def test_files_have_a_limit_of_their_own(client_of: ClientOf):
    client = client_of(running(limits={"max_body_bytes": 1024, "max_file_bytes": 20_000}))
    whole = file_with(receipt(replace(PARAMS, prompt="x" * 4000)))
    assert len(whole) > 1024
    assert (await read(client, whole)).status_code == 200
    for body, headers in (
        (whole + bytes(20_000), PNG),
        (gzip.compress(whole + bytes(10**6)), {**PNG, "content-encoding": "gzip"}),
    ):
        response = await client.post(URL, content=body, headers=headers)
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "request_too_large"


async def test_the_limit_is_the_same_below_a_prefix():
    app = create_app(running(limits={"max_body_bytes": 1024}))
    transport = httpx.ASGITransport(app=app, root_path="/prefix")
    async with httpx.AsyncClient(transport=transport, base_url="http://sluice.test") as client:
        whole = file_with(receipt(replace(PARAMS, prompt="x" * 4000)))
        response = await client.post(f"/prefix{URL}", content=whole, headers=PNG)
        assert response.status_code == 200, response.text


async def test_so_many_are_read_at_once(client_of: ClientOf):
    client = client_of(running(limits={"max_file_reads": 1}))
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield file_with(receipt())
        begun.set()
        await go.wait()

    first = asyncio.create_task(client.post(URL, content=slow(), headers=PNG))
    await begun.wait()
    refused = await read(client, file_with(receipt()))
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "overloaded"
    assert int(refused.headers["retry-after-ms"]) > 0
    go.set()
    assert (await first).status_code == 200
    assert (await read(client, file_with(receipt()))).status_code == 200
