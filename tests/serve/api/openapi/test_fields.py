"""The ranges that the document gives for a generation's fields are those that hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from serve.api.openapi.generation_fields import generation_schemas
from serve.api.schemas import GENERATION_SCHEMA, ImageGenerationRequest
from tests.serve.conftest import ClientOf
from tests.serve.fakes import services

URL = "/v1/images/preflight"
LIMITS = {"max_images": 3, "max_steps": 30, "max_prompt_chars": 100, "min_side": 80}
GIVEN = services(limits=LIMITS, deadlines={"max_ms": 40_000})
SCHEMAS = generation_schemas(GIVEN)
FIELDS: dict[str, Any] = SCHEMAS[GENERATION_SCHEMA]["properties"]

BESIDE = {
    "negative_prompt": {"true_cfg_scale": 2.0},
    "min_steps": {"num_inference_steps": 30, "deadline_ms": 1000},
    "width": {"height": 96},
    "height": {"width": 96},
}
"""What a field needs to be used."""


def choices(name: str) -> list[dict[str, Any]]:
    return FIELDS[name].get("anyOf", [FIELDS[name]])


def bounds() -> Iterator[tuple[str, Any, Any]]:
    """(field, the last value that is allowed, the first that is not)."""
    for name in (*ImageGenerationRequest.model_fields, "width", "height"):
        for choice in choices(name):
            step = choice.get("multipleOf", 1)
            if "minimum" in choice:
                yield name, choice["minimum"], choice["minimum"] - step
            if "maximum" in choice:
                yield name, choice["maximum"], choice["maximum"] + step
            if "maxLength" in choice:
                yield name, "x" * choice["maxLength"], "x" * (choice["maxLength"] + 1)


BOUNDS = list(bounds())


async def post(client: httpx.AsyncClient, name: str, value: object) -> httpx.Response:
    body = {"prompt": "a cat", **BESIDE.get(name, {}), name: value}
    return await client.post(URL, json=body)


@pytest.mark.parametrize(("name", "last", "beyond"), BOUNDS, ids=lambda value: str(value)[:20])
async def test_the_bounds_are_the_real_ones(
    client_of: ClientOf, name: str, last: object, beyond: object
):
    client = client_of(GIVEN)
    taken = await post(client, name, last)
    assert taken.status_code == 200, taken.text
    refused = await post(client, name, beyond)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] in (name, "size")


def test_every_number_and_every_text_has_bounds():
    bounded = {name for name, _, _ in BOUNDS}
    for name in ImageGenerationRequest.model_fields:
        free = [
            choice
            for choice in choices(name)
            if choice.get("type") in ("integer", "number", "string")
            and not {"enum", "pattern", "const"} & set(choice)
        ]
        assert not free or name in bounded, name


@pytest.mark.parametrize(
    "name", [name for name in FIELDS if any("enum" in c for c in choices(name))]
)
async def test_each_value_of_an_enumeration_is_taken(client_of: ClientOf, name: str):
    client = client_of(GIVEN)
    for choice in choices(name):
        for value in choice.get("enum", ()):
            answer = await post(client, name, value)
            assert answer.status_code == 200, answer.text


async def test_a_whole_number_is_an_integer_however_it_is_written(client_of: ClientOf):
    content = b'{"prompt": "a cat", "n": 2.0, "seed": 7e0, "num_inference_steps": 3.5e1}'
    headers = {"content-type": "application/json"}
    answer = await client_of(services()).post(URL, content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    settled = answer.json()["parameters"]
    assert (settled["n"], settled["seed"], settled["num_inference_steps"]) == (2, 7, 35)


def test_what_is_always_refused_is_not_offered():
    said = {
        name: [value for choice in choices(name) for value in choice.get("enum", ())]
        for name in ("background", "moderation")
    }
    assert said == {
        "background": ["auto", "opaque"],
        "moderation": ["auto"],
    }
