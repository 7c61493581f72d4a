"""Hugging Face's own client, unmodified, against `/hf/text-to-image`."""

from __future__ import annotations

import json

import httpx
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import BadRequestError, HfHubHTTPError

from pipelines.errors import Overloaded
from tests.serve.jobs.stepping_graph import SteppingGraph
from tests.serve.live import Live


def client_of(served: Live) -> InferenceClient:
    return InferenceClient(model=f"{served.url}/hf/text-to-image", token="unused")


def test_an_image(served: Live, graph: SteppingGraph):
    served.call(graph.allow)
    image = client_of(served).text_to_image(
        "a cat",
        negative_prompt="dogs",
        width=128,
        height=64,
        num_inference_steps=3,
        guidance_scale=2.5,
        seed=7,
        extra_body={"true_cfg_scale": 2.0, "deadline_ms": 5000},
    )
    assert image.size == (64, 64)  # as the fake draws all
    [job] = graph.jobs
    params = job.params
    assert (params.prompt, params.negative_prompt, params.seed) == ("a cat", "dogs", 7)
    assert (params.width, params.height, params.num_inference_steps) == (128, 64, 3)
    assert (params.guidance_scale, params.true_cfg_scale) == (2.5, 2.0)
    assert (job.finish.output_format, job.finish.store) == ("png", False)


def test_what_is_not_used_is_named(served: Live, graph: SteppingGraph):
    served.call(graph.allow)
    body = {"inputs": "a cat", "parameters": {"scheduler": "DPMSolver", "seed": 3}}
    answer = httpx.post(
        f"{served.url}/hf/text-to-image", json=body, headers={"accept": "image/webp"}
    )
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/webp"
    assert answer.headers["x-sluice-seed"] == "3"
    assert json.loads(answer.headers["x-sluice-warnings"]) == [
        "parameters.scheduler: not used; the noise schedule is the model's own"
    ]
    assert graph.jobs[0].finish.output_format == "webp"


def test_a_format_in_the_body_goes_before_the_header(served: Live, graph: SteppingGraph):
    served.call(graph.allow)
    client_of(served).text_to_image("a cat", extra_body={"output_format": "jpeg"})
    assert graph.jobs[0].finish.output_format == "jpeg"


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"strength": 0.5}, "strength: needs an image beside it"),
        ({"lora": "x"}, "lora: adapters"),
        ({"stream": True}, "stream: this task does not stream"),
        ({"n": 2}, "n: this task answers with one image"),
        ({"response_format": "url"}, "response_format: this task answers with the image itself"),
        ({"num_inference_steps": 1000}, "num_inference_steps: "),
        ({"sede": 3}, "sede: unknown field; did you mean `seed`?"),
    ],
)
def test_refused_by_name(served: Live, extra: dict[str, object], says: str):
    with pytest.raises(BadRequestError) as caught:
        client_of(served).text_to_image("a cat", extra_body=extra)
    assert says in str(caught.value)


def test_an_overload(served: Live, graph: SteppingGraph):
    graph.errors.append(Overloaded("the queue is full", retry_after_s=1.0))
    with pytest.raises(HfHubHTTPError, match="the queue is full") as caught:
        client_of(served).text_to_image("a cat")
    assert caught.value.response.status_code == 429
    assert caught.value.response.headers["retry-after"] == "1"
