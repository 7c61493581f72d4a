"""Every row of the tables of other tools' words, and what becomes of it over HTTP."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import httpx
import jsonschema
import pytest

from pipelines.errors import InvalidRequest
from serve.api.dialects.foreign_names import (
    CONTAINERS,
    CONTROL_WORDS,
    FOREIGN_FIELDS,
    FOREIGN_VALUES,
    IMAGE_SIZES,
    Instead,
    NotOffered,
    NotUsed,
    Same,
)
from serve.api.normalise import Plan, normalise
from serve.api.openapi.generation_fields import generation_schemas
from serve.api.pictures.fields import PictureFields
from serve.api.schemas import GENERATION_SCHEMA, ImageGenerationRequest, parse_request
from serve.settings.settings import Deadlines, Limits
from tests.serve.conftest import ClientOf
from tests.serve.fakes import SPEC, FakeGraph, services

URL = "/v1/images/generations"
OWN = ImageGenerationRequest.model_fields
WIDE = replace(SPEC, max_side=2048)
SCHEMAS = generation_schemas(services(spec=WIDE))
SCHEMA: dict[str, Any] = SCHEMAS[GENERATION_SCHEMA]["properties"]
BODY_SCHEMA = {**SCHEMAS[GENERATION_SCHEMA], "components": {"schemas": SCHEMAS}}
BODY = jsonschema.Draft202012Validator(BODY_SCHEMA)

SAMPLES: dict[str, Any] = {
    "prompt": "a dog",
    "n": 3,
    "size": "128x64",
    "aspect_ratio": "2:1",
    "num_inference_steps": 7,
    "guidance_scale": 2.5,
    "true_cfg_scale": 3.0,
    "seed": 11,
    "output_format": "webp",
    "output_compression": 40,
}
BASE: dict[str, Any] = {"seed": 5, "output_format": "jpeg", "negative_prompt": "dull"}


def plan(**body: Any) -> Plan:
    """What the body becomes; the API's document must allow a body that is accepted."""
    made = _plan(body)
    # It says nothing of capitals.
    BODY.validate({"prompt": "x", **body, **_lower(body)})
    return made


def _lower(body: dict[str, Any]) -> dict[str, Any]:
    return {name: body[name].lower() for name in FOREIGN_VALUES if isinstance(body.get(name), str)}


def _plan(body: dict[str, Any]) -> Plan:
    return normalise(
        parse_request(body),
        spec=WIDE,
        limits=Limits(max_side=2048, max_pixels=2048 * 2048),
        deadlines=Deadlines(),
        served_names=("alias", SPEC.name),
        random_seed=4242,
    )


def rows(kind: type) -> list[str]:
    return [name for name, row in FOREIGN_FIELDS.items() if isinstance(row, kind)]


def is_of_pictures(name: str) -> bool:
    """Whether the row leads to a field about pictures, which a plan needs the pictures of."""
    row = FOREIGN_FIELDS[name]
    return isinstance(row, Same) and row.field in PictureFields.model_fields


@pytest.fixture
async def refusal_of(client: httpx.AsyncClient) -> Any:
    async def refusal(body: dict[str, Any]) -> dict[str, Any]:
        response = await client.post(URL, json={"prompt": "a cat", **body})
        assert response.status_code == 400, response.text
        return response.json()["error"]

    return refusal


def test_the_tables_hold_no_name_of_ours():
    assert not set(FOREIGN_FIELDS) & set(OWN)
    assert set(FOREIGN_VALUES) <= set(OWN)
    ours = {row.field for row in FOREIGN_FIELDS.values() if isinstance(row, Same)}
    assert ours <= {*SAMPLES, *PictureFields.model_fields}


@pytest.mark.parametrize("name", [name for name in rows(Same) if is_of_pictures(name)])
def test_a_picture_by_another_name(name: str):
    row = FOREIGN_FIELDS[name]
    assert isinstance(row, Same)
    sample = 0.5 if row.field == "strength" else "data:image/png;base64,AAAA"
    theirs = parse_request({"prompt": "a", name: sample})
    ours, without = (
        parse_request({"prompt": "a", row.field: sample}),
        parse_request({"prompt": "a"}),
    )
    assert theirs.model_dump() == ours.model_dump() != without.model_dump()
    assert theirs.meant[name] == row.field
    assert SCHEMA[name]["description"] == f"As `{row.field}`."


@pytest.mark.parametrize("name", CONTROL_WORDS)
def test_what_is_said_of_the_one_control_map(name: str):
    field = CONTROL_WORDS[name]
    value: Any = {"image": "0" * 32, "kind": "canny"}.get(field, 0.5)
    control = {"image": "0" * 32, field: value}
    theirs = parse_request({"prompt": "a", "control_image": "0" * 32, name: value})
    ours = parse_request({"prompt": "a", "control": [control]})
    assert theirs.model_dump() == ours.model_dump()
    assert theirs.meant[name] == "control"
    assert SCHEMA[name]["description"] == f"As `{field}` of the only entry of `control`."


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"control_strength": 1}, "control_strength", "needs control_image beside it"),
        (
            {"control_image": "a", "control": []},
            "control_image",
            "contradicts control; leave one of them out",
        ),
        ({"control_image": "a", "control_scale": 1, "control_strength": 2}, "control_", "contra"),
    ],
)
def test_control_in_two_ways(body: dict[str, Any], param: str, said: str):
    with pytest.raises(InvalidRequest, match=said) as caught:
        parse_request({"prompt": "a", **body})
    assert (caught.value.param or "").startswith(param)


@pytest.mark.parametrize("name", [name for name in rows(Same) if not is_of_pictures(name)])
def test_the_same_by_another_name(name: str):
    row = FOREIGN_FIELDS[name]
    assert isinstance(row, Same)
    base = {key: value for key, value in BASE.items() if key != row.field}
    foreign, ours = ({"prompt": "a cat", **base} for _ in range(2))
    ours[row.field] = foreign[name] = SAMPLES[row.field]
    if row.field == "prompt":
        del foreign["prompt"]
    assert plan(**foreign) == plan(**ours)
    assert plan(**ours) != plan(**{"prompt": "a cat", **base})
    assert SCHEMA[name]["description"] == f"As `{row.field}`."


@pytest.mark.parametrize("name", rows(Instead))
async def test_a_field_of_ours_is_named(name: str, refusal_of: Any):
    error = await refusal_of({name: 1})
    assert (error["code"], error["param"]) == ("invalid_value", name)
    assert error["message"].startswith(f"{name}: ")
    named = re.findall(r"`([a-z_-]+)`", error["message"])
    assert named
    assert all(each in OWN or each == "x-request-id" for each in named)
    assert name not in SCHEMA


@pytest.mark.parametrize("name", rows(NotOffered))
async def test_what_is_not_offered(name: str, refusal_of: Any):
    error = await refusal_of({name: "/etc/passwd"})
    assert (error["code"], error["param"]) == ("unsupported_feature", name)
    assert error["message"].startswith(f"{name}: ")
    assert "/etc/passwd" not in error["message"]
    row = FOREIGN_FIELDS[name]
    assert isinstance(row, NotOffered)
    for value in row.unless:
        made = plan(prompt="a cat", **{name: value})
        assert (made.params, made.warnings) == (plan(prompt="a cat").params, ())
    assert (name in SCHEMA) == bool(row.unless)


@pytest.mark.parametrize("name", rows(NotUsed))
def test_what_is_not_used_is_noted(name: str):
    row = FOREIGN_FIELDS[name]
    assert isinstance(row, NotUsed)
    made = plan(prompt="a cat", **{name: "some value"})
    assert made.params == plan(prompt="a cat").params
    assert made.warnings == (f"{name}: not used; {row.why}",)
    for value in row.unless:
        assert plan(prompt="a cat", **{name: value}) == plan(prompt="a cat")
    assert SCHEMA[name]["description"] == f"Not used: {row.why}."


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in FOREIGN_VALUES.items() for value in values],
)
def test_values(name: str, value: str):
    theirs = FOREIGN_VALUES[name][value]
    base = {"prompt": "a cat", "seed": 5}
    ours = base if theirs.value is None else {**base, name: theirs.value}
    for written in (value, value.upper()):
        made = plan(**base, **{name: written})
        notes = () if theirs.note is None else (f"{name}: {theirs.note}",)
        assert replace(made, warnings=()) == replace(plan(**ours), warnings=())
        assert made.warnings == (*notes, *plan(**ours).warnings)
    assert value in str(SCHEMA[name])


@pytest.mark.parametrize("name", CONTAINERS)
async def test_containers(name: str, refusal_of: Any):
    inside = {"steps": 7, "seed": 3, "negative_prompt": None}
    assert plan(prompt="a cat", **{name: inside}) == plan(
        prompt="a cat", num_inference_steps=7, seed=3
    )
    assert plan(**{name: {"prompt": "a cat", "extra_args": {"seed": 3}}}).params.seed == 3
    assert SCHEMA[name]
    error = await refusal_of({name: {"seed": 3}, "seed": 4})
    assert error["message"].startswith(f"{name}.seed: 3 contradicts seed: 4")
    error = await refusal_of({name: [1]})
    assert error["message"] == (f"{name}: must be an object with further fields, got an array")
    error = await refusal_of({name: {"setps": 3}})
    assert error["param"] == f"{name}.setps"


@pytest.mark.parametrize("name", IMAGE_SIZES)
def test_sizes_of_fal(name: str):
    assert plan(prompt="x", image_size=name) == plan(prompt="x", size=IMAGE_SIZES[name])


def test_sizes():
    wanted = plan(prompt="x", size="128x64")
    assert plan(prompt="x", width=128, height=64) == wanted
    assert plan(prompt="x", width=128, height=64, size="128X64") == wanted
    assert plan(prompt="x", width=128, height=64, size="auto") == wanted
    assert plan(prompt="x", width=128, height=64, aspect_ratio="custom") == wanted
    assert plan(prompt="x", image_size={"width": 128, "height": 64}) == wanted
    assert plan(prompt="x", image_size="128x64") == wanted
    assert _plan({"prompt": "x", "extra_body": {"width": 128}, "height": 64}) == wanted


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        (
            {"steps": 7, "num_inference_steps": 8},
            "steps",
            "steps: 7 contradicts num_inference_steps: 8; leave one of them out",
        ),
        ({"steps": 7, "num_steps": 8}, "num_steps", "num_steps: 8 contradicts steps: 7"),
        (
            {"size": "64x64", "width": 128, "height": 64},
            "size",
            'size: "64x64" contradicts width and height, which are 128x64',
        ),
        ({"width": 128}, "width", "width: needs height beside it"),
        ({"height": 128}, "height", "height: needs width beside it"),
        ({"width": "128", "height": 64}, "width", 'must be an integer, in pixels, got "128"'),
        ({"width": True, "height": 64}, "width", "must be an integer, in pixels, got true"),
        ({"width": 10**30, "height": 64}, "size", "size: must be 'auto' or 'WIDTHxHEIGHT'"),
        (
            {"width": 64, "height": 64, "extra_body": {"width": 96}},
            "extra_body.width",
            "extra_body.width: 96 contradicts width: 64",
        ),
        ({"image_size": "huge"}, "image_size", "or write `size` as 'WIDTHxHEIGHT'"),
        ({"image_size": {"width": 64}}, "image_size", "an object with width and height"),
        ({"image_size": "square", "size": "64x64"}, "image_size", "contradicts size"),
        ({"aspect_ratio": "custom"}, "aspect_ratio", "'custom' needs width and height"),
        ({"seed": [1, 2]}, "seed", "must be one integer, as image i is drawn with seed + i"),
        ({"seed": [1, 3], "n": 2}, "seed", "must be one integer"),
        ({"seed": [], "n": 0}, "seed", "must be one integer"),
        ({"seed": [True]}, "seed", "must be one integer"),
        ({"quality": "ultra"}, "quality", "must be one of 'auto', 'low', 'medium' or 'high'"),
    ],
)
async def test_contradictions_and_bad_values(
    body: dict[str, Any], param: str, said: str, refusal_of: Any
):
    error = await refusal_of(body)
    assert (error["param"], error["code"]) == (param, "invalid_value")
    assert said in error["message"]


def test_the_schema_of_the_body_is_one():
    jsonschema.Draft202012Validator.check_schema(BODY_SCHEMA)
    with pytest.raises(jsonschema.ValidationError, match="Additional properties"):
        BODY.validate({"prompt": "x", "setps": 3})
    with pytest.raises(jsonschema.ValidationError, match="dependency"):
        BODY.validate({"prompt": "x", "width": 64})


async def test_containers_in_containers_have_an_end(refusal_of: Any):
    body: dict[str, Any] = {"seed": 3}
    for _ in range(100):
        body = {"extra_body": body}
    error = await refusal_of(body)
    assert error["message"] == "extra_body.extra_body.extra_body: is nested too deeply"


def test_what_is_said_twice_alike_is_no_contradiction():
    assert plan(prompt="x", steps=7, num_inference_steps=7).params.num_inference_steps == 7


def test_a_list_of_the_seeds_that_the_images_get():
    assert plan(prompt="x", seed=[4]).params.seed == 4
    made = plan(prompt="x", seed=[4, 5, 6], num_images=3).params
    assert (made.seed, made.num_images) == (4, 3)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("promt", "did you mean `prompt`?"),
        ("setps", "did you mean `num_inference_steps`?"),
        ("step", "did you mean `num_inference_steps`?"),
        ("numInferenceSteps", "did you mean `num_inference_steps`?"),
        ("negativePrompt", "did you mean `negative_prompt`?"),
        ("widht", "did you mean `width`?"),
        ("num_image", "did you mean `n`?"),
        ("CFGScale", "if you mean `cfg_scale`: its meaning differs between tools"),
        ("lora_weight", "if you mean `lora_weights`: adapters (LoRA) are not served yet"),
        ("zzzzz", "GET /openapi.json lists the fields"),
        ("", "GET /openapi.json lists the fields"),
        ("q" * 500, "GET /openapi.json lists the fields"),
    ],
)
async def test_near_misses(name: str, hint: str, refusal_of: Any):
    error = await refusal_of({name: 8})
    assert error["message"].startswith(f"{name[:80]}: unknown field; {hint}")
    assert error["param"] == name[:80]
    assert len(error["message"]) < 350


async def test_notes_reach_the_answer(client_of: ClientOf):
    graph = FakeGraph()
    client = client_of(services(graph, spec=SPEC))
    body = {"prompt": "a cat", "seed": -1, "quality": "max", "style": "vivid", "go_fast": True}
    for path in (URL, "/v1/images/preflight"):
        response = await client.post(path, json=body)
        assert [text.partition(":")[0] for text in response.json()["warnings"]] == [
            "go_fast",
            "quality",
            "style",
            "seed",
        ]
    assert response.json()["parameters"]["seed"] is None
    assert response.json()["parameters"]["quality"] == "high"


async def test_more_fields_than_any_client_has_are_not_read(refusal_of: Any):
    many = {f"field_{number}": 1 for number in range(50_000)}
    error = await refusal_of(many)
    assert error["message"] == "the body has more than 256 fields; send fewer"
    nested = {"extra_body": {f"field_{number}": 1 for number in range(256)}}
    assert await refusal_of(nested) == error


async def test_near_names_are_looked_for_as_often_as_they_are_told(
    refusal_of: Any, monkeypatch: pytest.MonkeyPatch
):
    looked: list[str] = []

    def unknown(name: str, _param: str, own: Any) -> str:
        if own:
            looked.append(name)
        return name

    monkeypatch.setattr("serve.api.dialects.translation._unknown", unknown)
    error = await refusal_of({f"field_{number}": 1 for number in range(200)})
    assert error["message"].endswith("and 192 more like these")
    assert len(looked) == 8
