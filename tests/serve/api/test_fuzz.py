"""Whatever is sent, the answer is an image or an error in the API's shape; never a 5xx."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.api.dialects.foreign_names import CONTAINERS, FOREIGN_FIELDS
from serve.api.schemas import ImageGenerationRequest
from serve.http import create_app
from tests.properties import examples
from tests.serve.fakes import PIXELS, services

APP = create_app(services())

numbers = st.one_of(
    st.integers(),
    st.integers(-5, 600),
    st.floats(),
    st.sampled_from([0, 1, 10, 16, 64, 2**63 - 1, 2**63, 10**30]),
)
texts = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=30),
    st.sampled_from(
        ["a cat", "", " ", "auto", "64x64", "100x64", "high", "png", "url", "file", "opaque",
         "16:9", "--ar 16:9", "[GEN] x --ar 3:1", "[EDIT] x", "a --ar 9:0", "sluice-shapes",
         "\x00", "\ud800"]
    ),
)  # fmt: skip
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=5,
)
names = st.one_of(
    st.sampled_from(list(ImageGenerationRequest.model_fields)),
    st.sampled_from([*CONTAINERS, *FOREIGN_FIELDS, "width", "height", "image_size"]),
    texts,
)
bodies = st.one_of(
    st.dictionaries(names, values, max_size=6),
    st.dictionaries(names, values, max_size=4).map(lambda body: {"prompt": "a cat"} | body),
    st.dictionaries(names, values, max_size=4).map(
        lambda body: {"extra_body": body, "input": body}
    ),
    values,
)


async def post(content: bytes) -> httpx.Response:
    transport = httpx.ASGITransport(app=APP)
    async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
        return await client.post(
            "/v1/images/generations",
            content=content,
            headers={"content-type": "application/json"},
        )


def check(response: httpx.Response) -> None:
    assert response.headers["x-request-id"]
    if response.status_code == 200 and "x-sluice-seed" in response.headers:
        assert response.content.startswith((PIXELS[:4], b"PK"))
        return
    if response.status_code == 200:
        answer = response.json()
        assert answer["data"]
        assert {"created", "usage", "warnings", "size"} <= answer.keys()
        return
    assert 400 <= response.status_code < 500, response.text
    error = response.json()["error"]
    assert {"message", "type", "param", "code"} <= error.keys()
    assert error["message"]
    assert error["param"] is None or isinstance(error["param"], str)


@settings(max_examples=examples(300))
@given(bodies)
def test_any_json(body: Any):
    check(asyncio.run(post(json.dumps(body).encode())))


@given(st.binary(max_size=200))
def test_any_bytes(content: bytes):
    check(asyncio.run(post(content)))


@settings(max_examples=examples(50))
@given(st.text(st.characters(exclude_categories=()), max_size=300))
def test_any_prompt(prompt: str):
    check(asyncio.run(post(json.dumps({"prompt": prompt}).encode())))
