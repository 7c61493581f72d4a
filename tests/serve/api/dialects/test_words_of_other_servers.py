"""Each word that clients of vLLM-Omni, SGLang, TensorRT-LLM and DALL-E 3 tools are known to send:
used, adjusted with a warning, or refused by name; and each that they read in an answer."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.serve.conftest import ClientOf
from tests.serve.fakes import FakeGraph, services

URL = "/v1/images/generations"
PREFLIGHT = "/v1/images/preflight"

USED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"width": 128, "height": 64}, {"size": "128x64"}),
    ({"size": "128x64", "width": 128, "height": 64}, {"size": "128x64"}),
    ({"steps": 7}, {"num_inference_steps": 7}),
    ({"num_images": 2}, {"n": 2}),
    ({"num_images_per_prompt": 2}, {"n": 2}),
    ({"aspect_ratio": "1:1"}, {"size": "64x64"}),
    ({"extra_body": {"seed": 7, "steps": 5}}, {"seed": 7, "num_inference_steps": 5}),
    ({"extra_params": {"guidance_scale": 2.5}}, {"guidance_scale": 2.5}),
    ({"extra_args": {"extra_body": {"seed": 7}}}, {"seed": 7}),
    ({"seed": 7}, {"seed": 7}),
    ({"seed": [7]}, {"seed": 7}),
    ({"seed": [7, 8], "n": 2}, {"seed": 7, "n": 2}),
    ({"quality": "standard"}, {"quality": "medium"}),
    ({"quality": "hd"}, {"quality": "high"}),
    ({"quality": "exact"}, {"quality": "medium"}),
    ({"quality": "lossless"}, {"quality": "medium"}),
    ({"quality": "high"}, {"quality": "high"}),
    ({"response_format": "file"}, {}),
    ({"generator_device": "cpu"}, {}),
    ({"enable_teacache": False}, {}),
    ({"return_stage_metrics": True}, {}),
    ({"enhance_prompt": False}, {}),
    ({"output_quality": 40, "output_format": "jpeg"}, {"output_compression": 40}),
    ({"lora": None}, {}),
    ({"lora": []}, {}),
    ({"lora": {}}, {}),
    ({"lora": "[]"}, {}),
]

ADJUSTED: list[tuple[dict[str, Any], str]] = [
    ({"seed": -1}, "seed"),
    ({"quality": "extra-high"}, "quality"),
    ({"style": "vivid"}, "style"),
    ({"generator_device": "cuda"}, "generator_device"),
    ({"max_sequence_length": 512}, "max_sequence_length"),
    ({"enable_teacache": True}, "enable_teacache"),
    ({"return_stage_metrics": True, "response_format": "file"}, "return_stage_metrics"),
    ({"extra_args": {"enable_teacache": True}}, "extra_args.enable_teacache"),
]

TOO_DEEP = {"extra_args": {"extra_body": {"extra_params": {"seed": 7}}}}

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"cfg": 3.5}, "cfg"),
    ({"seed": [7, 9], "n": 2}, "seed"),
    ({"seed": ["7"]}, "seed"),
    ({"sigmas": [1.0, 0.5]}, "sigmas"),
    ({"enhance_prompt": True}, "enhance_prompt"),
    ({"lora": {"name": "ink", "scale": 0.8}}, "lora"),
    ({"lora": {"lora_name": "ink", "lora_scale": 0.8}}, "lora"),
    ({"lora": [{"adapter": "ink"}]}, "lora"),
    ({"lora": '{"name": "ink"}'}, "lora"),
    ({"lora": {"name": "/etc/passwd"}}, "lora"),
    ({"lora": {"lora_path": "/etc/passwd"}}, "lora"),
    ({"extra_body": {"lora": {"name": "ink"}}}, "extra_body.lora"),
    ({"extra_body": "steps=7"}, "extra_body"),
    ({"extra_params": [7]}, "extra_params"),
    (
        {"extra_args": {"extra_body": {"extra_params": {"seed": 7}}}},
        "extra_args.extra_body.extra_params",
    ),
    ({"url": "http://169.254.169.254/"}, "image"),
    ({"url[]": ["http://169.254.169.254/"]}, "image"),
    ({"mask": "x"}, "mask"),
    ({"mask_image": "x"}, "mask_image"),
    ({"reference_image": "x"}, "reference_image"),
    ({"strength": 0.6}, "strength"),
]


def _id(value: object) -> str:
    return str(value)[:60]


@pytest.mark.parametrize(("body", "settled"), USED, ids=_id)
async def test_used(client: httpx.AsyncClient, body: dict[str, Any], settled: dict[str, Any]):
    answer = (await client.post(PREFLIGHT, json={"prompt": "a cat", **body})).json()
    warnings = [text for text in answer["warnings"] if not text.startswith("output_compression")]
    assert warnings == []
    assert {name: answer["parameters"][name] for name in settled} == settled
    assert {each["status"] for each in answer["treatment"].values()} == {"used"}
    assert (await client.post(URL, json={"prompt": "a cat", **body})).status_code == 200


@pytest.mark.parametrize(("body", "place"), ADJUSTED, ids=_id)
async def test_adjusted(client: httpx.AsyncClient, body: dict[str, Any], place: str):
    answer = (await client.post(PREFLIGHT, json={"prompt": "a cat", **body})).json()
    (warning,) = answer["warnings"]
    assert warning.startswith(f"{place}: ")
    assert answer["treatment"][place]["status"] == "adjusted"
    assert answer["treatment"][place]["reason"] == warning.removeprefix(f"{place}: ")


@pytest.mark.parametrize(("body", "param"), REFUSED, ids=_id)
async def test_refused(client: httpx.AsyncClient, body: dict[str, Any], param: str):
    for path in (URL, PREFLIGHT):
        answer = await client.post(path, json={"prompt": "a cat", **body})
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["param"] == param
        assert error["message"].startswith(f"{param}: ")
        assert "/etc/passwd" not in error["message"]


async def test_what_they_read_in_an_answer(client_of: ClientOf):
    timings = {"encode": 0.004, "denoise": 0.25, "total": 0.5}
    client = client_of(services(FakeGraph(timings=timings)))
    body = {"prompt": "a cat", "return_stage_metrics": True}
    answer = await client.post(URL, json=body, headers={"x-request-id": "asked-1"})
    found = answer.json()
    assert (found["id"], found["size"], found["output_format"]) == ("asked-1", "64x64", "png")
    assert found["inference_time_s"] == 0.5
    assert found["usage"]["prompt_tokens_details"] == {"text_tokens": 7, "image_tokens": 0}
    assert found["metrics"] == {
        "generation": 500.0,
        "encode": 4.0,
        "denoise": 250.0,
        "total": 500.0,
    }
    phases = answer.headers["server-timing"].split(", ")
    assert {"generation;dur=500.0", "denoise;dur=250.0"} <= set(phases)


async def test_metrics_are_not_told_unasked(client: httpx.AsyncClient):
    assert "metrics" not in (await client.post(URL, json={"prompt": "a cat"})).json()


@pytest.mark.parametrize("path", ["/health", "/liveness", "/v1/models"])
async def test_where_they_look(client: httpx.AsyncClient, path: str):
    assert (await client.get(path)).status_code == 200
