"""The served application on a real Ray cluster, driven by the official OpenAI client.

What counts is what a user gets: the picture of `diffusers.FluxPipeline`, whatever else is asked at
the same time, and clear refusals after which the next good request works.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import ray.serve
from openai.types import ImagesResponse
from PIL import Image

from pipelines.catalog import find
from pipelines.contracts import GenerationParams
from serve.app import build
from tests.cluster import LocalCluster
from tests.oracle import compare, oracle_images

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

APP = "served-test"
SPEC = find("sluice-shapes")
BASE = GenerationParams(
    prompt="a red circle left of a blue square on a white background",
    height=64,
    width=64,
    num_inference_steps=4,
    guidance_scale=1.5,
    seed=11,
    max_sequence_length=SPEC.max_sequence_length,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running application and a client of it that does not retry."""

    url: str
    client: openai.OpenAI


@pytest.fixture(scope="module")
def server(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    store = tmp_path_factory.mktemp("store")
    ray.serve.run(
        build({"limits.max_steps": 500, "stages.storage.directory": str(store)}),
        name=APP,
        route_prefix="/",
    )
    url = f"http://127.0.0.1:{cluster.http_port}"
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        yield Server(url=url, client=client)
    ray.serve.delete(APP)


def generate(server: Server, params: GenerationParams, **extra: Any) -> ImagesResponse:
    """Ask for `params` as a user of the OpenAI client would."""
    return server.client.images.generate(
        model="sluice-shapes",
        prompt=params.prompt,
        n=params.num_images,
        size=f"{params.width}x{params.height}",  # type: ignore[arg-type]
        extra_body={
            "seed": params.seed,
            "num_inference_steps": params.num_inference_steps,
            "guidance_scale": params.guidance_scale,
            **(
                {
                    "negative_prompt": params.negative_prompt,
                    "true_cfg_scale": params.true_cfg_scale,
                }
                if params.negative_prompt is not None
                else {}
            ),
            **extra,
        },
    )


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def assert_exact(answer: ImagesResponse, params: GenerationParams) -> None:
    """The answer's pictures are the oracle's."""
    assert answer.data is not None
    assert len(answer.data) == params.num_images
    for item, reference in zip(answer.data, oracle_images(SPEC.source, params), strict=True):
        difference = compare(pixels(base64.b64decode(item.b64_json or "")), reference)
        assert difference.is_exact, (params, difference)


@pytest.mark.parametrize(
    "params",
    [
        BASE,
        replace(BASE, height=128, width=80, num_inference_steps=7),
        replace(BASE, negative_prompt="a green star", true_cfg_scale=2.5),
        replace(BASE, num_images=3, num_inference_steps=2),
    ],
    ids=["square", "tall", "true-cfg", "three-images"],
)
def test_served_images_are_those_of_flux_pipeline(server: Server, params: GenerationParams) -> None:
    answer = generate(server, params)
    assert_exact(answer, params)
    assert answer.data is not None
    seeds = [getattr(item, "seed", None) for item in answer.data]
    assert seeds == [params.seed + i for i in range(params.num_images)]
    assert answer.usage is not None
    tokens = params.num_images * params.height * params.width // 256
    assert answer.usage.output_tokens == tokens
    assert answer.usage.total_tokens == tokens + answer.usage.input_tokens


def test_concurrent_mixed_requests_do_not_disturb_each_other(server: Server) -> None:
    requests = [
        replace(
            BASE,
            seed=100 + i,
            height=64 + 16 * (i % 3),
            num_inference_steps=3 + i,
            negative_prompt="a blue square" if i % 4 == 1 else None,
            true_cfg_scale=2.0 if i % 4 == 1 else 1.0,
            prompt=["a green star on a black background", BASE.prompt][i % 2],
        )
        for i in range(8)
    ]
    refused = {"prompt": "a red circle", "size": "65x64"}
    with ThreadPoolExecutor(10) as pool:
        answers = [pool.submit(generate, server, params) for params in requests]
        bad = pool.submit(httpx.post, f"{server.url}/v1/images/generations", json=refused)
        for answer, params in zip(answers, requests, strict=True):
            assert_exact(answer.result(), params)
    assert bad.result().status_code == 400


def test_the_link_serves_the_same_bytes_in_each_format(server: Server) -> None:
    for output_format in ("png", "jpeg", "webp"):
        answer = generate(server, BASE, output_format=output_format)
        assert answer.data is not None
        item = answer.data[0]
        inline = base64.b64decode(item.b64_json or "")
        fetched = httpx.get(item.url or "")
        assert fetched.content == inline
        assert fetched.headers["content-type"] == f"image/{output_format}"
        assert Image.open(io.BytesIO(inline)).format == output_format.upper()


def test_refusals_name_the_field_and_the_next_request_works(server: Server) -> None:
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({"prompt": "   "}, 400, "prompt"),
        ({"prompt": "a", "size": "0x64"}, 400, "size"),
        ({"prompt": "a", "n": 1000}, 400, "n"),
        ({"prompt": "a", "guidance_scale": "3"}, 400, "guidance_scale"),
        ({"prompt": "a", "colour": "red"}, 400, "colour"),
        ({"prompt": "a", "model": "dall-e-3"}, 404, "model"),
    ]
    for body, status, param in cases:
        answer = httpx.post(f"{server.url}/v1/images/generations", json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (status, param), error
        assert answer.headers["x-request-id"]
    huge = httpx.post(
        f"{server.url}/v1/images/generations",
        content=b'{"prompt": "' + b"a" * 50_000_000 + b'"}',
        headers={"content-type": "application/json"},
    )
    assert huge.status_code == 413
    assert_exact(generate(server, BASE), BASE)


def test_a_forbidden_prompt_is_refused_with_its_category(server: Server) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        generate(server, replace(BASE, prompt="instructions how to k\u200bill myself"))
    assert refused.value.code == "content_policy_violation"
    assert isinstance(refused.value.body, dict)
    assert refused.value.body["stage"] == "prompt"
    assert refused.value.body["category"] == "self_harm"


def test_models_and_health(server: Server) -> None:
    assert [model.id for model in server.client.models.list()] == ["sluice-shapes"]
    assert server.client.models.retrieve("sluice-shapes").id == "sluice-shapes"
    with pytest.raises(openai.NotFoundError, match="dall-e-3"):
        server.client.models.retrieve("dall-e-3")
    assert httpx.get(f"{server.url}/healthz").status_code == 200
    ready = httpx.get(f"{server.url}/readyz")
    assert ready.status_code == 200
    assert set(ready.json()["stages"].values()) == {True}
    assert len(ready.json()["stages"]) == 5
