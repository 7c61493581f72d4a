from __future__ import annotations

from typing import Any

import pytest

from pipelines.errors import InvalidRequest
from serve.api.schemas import parse_request


def test_defaults():
    request = parse_request({"prompt": "a cat"})
    assert (request.n, request.size, request.quality) == (1, "auto", "auto")
    assert request.response_format is None


def test_null_means_absent():
    request = parse_request({"prompt": "a cat", "seed": None, "n": None, "style": None})
    assert request.model_fields_set == {"prompt"}


def test_an_integer_is_a_number():
    assert parse_request({"prompt": "x", "guidance_scale": 3}).guidance_scale == 3.0


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({}, "prompt", "required"),
        ({"prompt": None}, "prompt", "required"),
        ({"prompt": 3}, "prompt", "must be a string, got 3"),
        ({"prompt": ["a"]}, "prompt", "must be a string, got an array"),
        ({"prompt": "a\x00b"}, "prompt", "U+0000"),
        ({"prompt": "a\ud800"}, "prompt", "U+D800"),
        ({"prompt": "x", "n": "2"}, "n", 'must be an integer, got "2"'),
        ({"prompt": "x", "n": 2.0}, "n", "must be an integer"),
        ({"prompt": "x", "n": True}, "n", "must be an integer, got true"),
        ({"prompt": "x", "seed": "7"}, "seed", "must be an integer"),
        ({"prompt": "x", "deadline_ms": 1.5}, "deadline_ms", "must be an integer, got 1.5"),
        ({"prompt": "x", "priority": "high"}, "priority", "must be an integer"),
        ({"prompt": "x", "min_steps": False}, "min_steps", "must be an integer, got false"),
        ({"prompt": "x", "stream": 1}, "stream", "must be true or false"),
        ({"prompt": "x", "guidance_scale": "3"}, "guidance_scale", "must be a finite number"),
        ({"prompt": "x", "guidance_scale": True}, "guidance_scale", "must be a finite number"),
        ({"prompt": "x", "guidance_scale": float("nan")}, "guidance_scale", "finite"),
        ({"prompt": "x", "true_cfg_scale": float("inf")}, "true_cfg_scale", "finite"),
        ({"prompt": "x", "true_cfg_scale": 10**400}, "true_cfg_scale", "finite"),
        ({"prompt": "x", "num_inference_steps": float("nan")}, "num_inference_steps", "integer"),
        ({"prompt": "x", "quality": "best"}, "quality", "'auto', 'low', 'medium' or 'high'"),
        ({"prompt": "x", "style": "noir"}, "style", "'vivid' or 'natural'"),
        ({"prompt": "x", "aspect_ratio": "wide"}, "aspect_ratio", "'W:H' such as '16:9'"),
        ({"prompt": "x", "output_format": "gif"}, "output_format", "'png', 'jpeg' or 'webp'"),
        (
            {"prompt": "x", "response_format": "b64"},
            "response_format",
            "'b64_json', 'url' or 'file'",
        ),
        ({"prompt": "x", "size": {"a": 1}}, "size", "must be a string, got an object"),
    ],
)
def test_wrong_types_name_their_field(body: dict[str, Any], param: str, said: str):
    with pytest.raises(InvalidRequest) as caught:
        parse_request(body)
    assert caught.value.param == param
    assert caught.value.message.startswith(f"{param}: ")
    assert said in caught.value.message


def test_deep_nesting_in_a_value_is_only_a_wrong_type():
    nested: list[Any] = []
    for _ in range(900):
        nested = [nested]
    with pytest.raises(InvalidRequest, match="prompt: must be a string"):
        parse_request({"prompt": nested})
    with pytest.raises(InvalidRequest, match=r"input\.prompt: an array contradicts prompt"):
        parse_request({"prompt": "x", "input": {"prompt": nested}})


def test_a_wrong_type_by_another_name_names_both():
    with pytest.raises(InvalidRequest) as caught:
        parse_request({"prompt": "x", "extra_body": {"steps": "8"}})
    assert caught.value.param == "num_inference_steps"
    assert caught.value.message == (
        'num_inference_steps (sent as extra_body.steps): must be an integer, got "8"'
    )


def test_all_mistakes_are_told_at_once():
    with pytest.raises(InvalidRequest) as caught:
        parse_request({"promt": "x", "n": "2", "seed": True, "step_cuts": [[0, "a"], [1]]})
    assert caught.value.param == "promt"
    assert caught.value.message == (
        "promt: unknown field; did you mean `prompt`?; prompt: required, and it is missing;"
        ' n: must be an integer, got "2"; seed: must be an integer, got true;'
        ' step_cuts[0][1]: must be an integer, got "a"'
    )


def test_of_very_many_mistakes_some_are_told():
    with pytest.raises(InvalidRequest) as caught:
        parse_request({f"no_such_field_{number}": 1 for number in range(200)})
    assert caught.value.message.count("unknown field") == 8
    assert caught.value.message.endswith("; and 193 more like these")
