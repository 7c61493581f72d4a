"""`response_format: file`: the image itself, as vLLM-Omni answers."""

from __future__ import annotations

import io
import json
import zipfile

import httpx
import pytest

from serve.api.file_response import file_response
from tests.serve.fakes import PIXELS, FakeGraph, finished

URL = "/v1/images/generations"


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
async def test_one_image(client: httpx.AsyncClient, graph: FakeGraph, output_format: str):
    response = await client.post(
        URL,
        json={
            "prompt": "a (red:1.3) cat",
            "seed": 5,
            "response_format": "file",
            "output_format": output_format,
        },
    )
    assert response.content == PIXELS
    assert response.headers["content-type"] == f"image/{output_format}"
    assert response.headers["content-length"] == str(len(PIXELS))
    assert response.headers["content-disposition"].endswith(f'.{output_format}"')
    assert response.headers["x-sluice-seed"] == "5"
    assert response.headers["x-request-id"]
    assert "denoise" in response.headers["server-timing"]
    (warning,) = json.loads(response.headers["x-sluice-warnings"])
    assert warning.startswith('prompt: weights such as "(red:1.3)"')
    assert graph.store.files == {}


async def test_several_images_are_a_zip(client: httpx.AsyncClient):
    body = {"prompt": "a cat", "n": 3, "response_format": "file", "output_format": "webp"}
    response = await client.post(URL, json=body)
    assert response.headers["content-type"] == "application/zip"
    assert "x-sluice-warnings" not in response.headers
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.namelist() == [f"image_{index}.webp" for index in range(3)]
        assert archive.read("image_2.webp") == PIXELS


async def test_an_error_is_json(client: httpx.AsyncClient):
    response = await client.post(URL, json={"prompt": "x", "n": 0, "response_format": "file"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "n"


def test_warnings_fit_into_a_header():
    response = file_response([finished()], warnings=["é" * 700, *(["w" * 900] * 20)], headers={})
    text = response.headers["x-sluice-warnings"]
    assert len(text) <= 4096
    shown = json.loads(text)
    assert shown[-1] == f"and {21 - (len(shown) - 1)} more"
