"""Pictures by the vendors' own clients, unmodified."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import replicate.client
from huggingface_hub import InferenceClient
from huggingface_hub.errors import BadRequestError

from pipelines.tasks import Task
from tests.serve.api.pictures.samples import data_url, holed, picture
from tests.serve.api.vendors.conftest import ServedOf
from tests.serve.api.vendors.test_fal import ClientOf, client_of
from tests.serve.jobs.stepping_graph import SteppingGraph
from tests.serve.live import Live

__all__ = ["client_of"]

PICTURE, WHITE = picture(128, 64), picture(128, 64, mode="L", colour=255)
MODEL = "sluice/test-model"


@pytest.fixture
def editing(served_of: ServedOf, graph: SteppingGraph) -> Live:
    """Serves a model that does every task."""
    served = served_of()
    served.services.spec = replace(served.services.spec, tasks=tuple(map(str, Task)))
    served.call(graph.allow)
    return served


@pytest.fixture
def openai_client(editing: Live) -> Iterator[openai.OpenAI]:
    client = openai.OpenAI(api_key="unused", base_url=f"{editing.url}/v1", max_retries=0)
    yield client
    client.close()


def roles(graph: SteppingGraph) -> list[str]:
    return [str(use.role) for use in graph.jobs[-1].params.pictures]


class TestOpenAI:
    def test_edit(self, openai_client: openai.OpenAI, graph: SteppingGraph):
        answer = openai_client.images.edit(
            image=io.BytesIO(PICTURE),
            mask=("mask.png", holed()),
            prompt="a dog",
            model="sluice-shapes",
            n=2,
            size="auto",  # pyright: ignore[reportArgumentType]
            input_fidelity="high",
            output_format="webp",
            extra_body={"seed": 3, "strength": 0.5, "outpaint": {"left": 16}, "paste_back": True},
        )
        assert answer.data is not None
        assert [getattr(image, "seed", None) for image in answer.data] == [3, 4]
        job = graph.jobs[-1]
        assert (job.params.task, job.params.strength) == ("fill", 0.5)
        assert job.recipes[1].mask_meaning == "transparent"
        assert job.recipes[0].padding.left == 16
        assert answer.size == "144x64"
        assert getattr(answer, "warnings", [""])[0].startswith("input_fidelity: not used")

    def test_edit_of_several(self, openai_client: openai.OpenAI, graph: SteppingGraph):
        openai_client.images.edit(
            image=[("a.png", PICTURE), ("b.png", picture(64, 64))], prompt="both"
        )
        names = [each.source.name for each in graph.jobs[-1].recipes if each.source]
        assert names == ["image[0]", "image[1]"]

    def test_edit_as_events(self, openai_client: openai.OpenAI, graph: SteppingGraph):
        events = openai_client.images.edit(image=PICTURE, prompt="x", stream=True)
        assert [event.type for event in events] == ["image_edit.completed"]

    def test_edit_with_a_list_of_maps(self, openai_client: openai.OpenAI, graph: SteppingGraph):
        control = {"image": data_url(PICTURE), "kind": "canny", "scale": 0.5}
        openai_client.images.edit(
            image=openai.omit,  # pyright: ignore[reportArgumentType]
            prompt="x",
            extra_body={"control": [control]},
        )
        (use,) = graph.jobs[-1].params.pictures
        assert (use.kind, use.scale) == ("canny", 0.5)

    def test_variation(self, openai_client: openai.OpenAI, graph: SteppingGraph):
        with pytest.warns(DeprecationWarning, match="deprecated"):
            answer = openai_client.images.create_variation(
                image=io.BytesIO(PICTURE), n=1, response_format="b64_json", user="bob"
            )
        assert answer.data is not None
        assert answer.data[0].b64_json
        assert (graph.jobs[-1].params.task, roles(graph)) == ("variation", ["reference"])

    def test_errors(self, openai_client: openai.OpenAI):
        with pytest.raises(openai.BadRequestError) as caught:
            openai_client.images.edit(image=b"hello", prompt="x")
        assert (caught.value.param, caught.value.code) == ("image", "invalid_value")
        with pytest.raises(openai.NotFoundError):
            openai_client.images.edit(
                image=openai.omit,  # pyright: ignore[reportArgumentType]
                prompt="x",
                extra_body={"image": "f" * 32},
            )


class TestHuggingFace:
    def test_image_to_image(self, editing: Live, graph: SteppingGraph, tmp_path: Path):
        client = InferenceClient(model=f"{editing.url}/hf/image-to-image", token="unused")
        file = tmp_path / "a.png"
        file.write_bytes(PICTURE)
        for image in (PICTURE, file):
            drawn = client.image_to_image(
                image,
                prompt="a dog",
                negative_prompt="cats",
                num_inference_steps=4,
                guidance_scale=2.5,
                target_size={"width": 192, "height": 96},  # pyright: ignore[reportArgumentType]
                strength=0.5,
            )
            assert drawn.size == (64, 64)  # as the fake draws all
            params = graph.jobs[-1].params
            assert (params.task, params.strength, params.prompt) == ("image-to-image", 0.5, "a dog")
            assert (params.width, params.height, params.guidance_scale) == (192, 96, 2.5)
            source = graph.jobs[-1].recipes[0].source
            assert source is not None
            assert source.data == PICTURE

    def test_a_picture_alone(self, editing: Live, graph: SteppingGraph):
        client = InferenceClient(model=f"{editing.url}/hf/image-to-image", token="unused")
        client.image_to_image(PICTURE)
        assert (graph.jobs[-1].params.task, roles(graph)) == ("variation", ["reference"])

    def test_an_instruction_and_a_mask(self, editing: Live, graph: SteppingGraph):
        client = InferenceClient(model=f"{editing.url}/hf/image-to-image", token="unused")
        client.image_to_image(PICTURE, prompt="[EDIT] make it blue")
        assert graph.jobs[-1].params.task == "edit"
        client.image_to_image(PICTURE, prompt="a dog", mask_image=base64.b64encode(WHITE).decode())
        assert graph.jobs[-1].params.task == "fill"

    @pytest.mark.parametrize(
        ("image", "extra", "said"),
        [
            (b"hello", {"prompt": "x"}, "image: "),
            (PICTURE, {"prompt": "x", "n": 2}, "n: this task answers with one image"),
            (PICTURE, {"prompt": "x", "sede": 2}, "did you mean `seed`"),
        ],
    )
    def test_refused(self, editing: Live, image: bytes, extra: dict[str, Any], said: str):
        client = InferenceClient(model=f"{editing.url}/hf/image-to-image", token="unused")
        with pytest.raises(BadRequestError) as caught:
            client.image_to_image(image, **extra)
        assert said in str(caught.value)

    def test_no_picture(self, editing: Live):
        answer = httpx.post(f"{editing.url}/hf/image-to-image", json={"parameters": {}})
        assert answer.status_code == 400
        assert answer.json()["errors"][0]["message"].startswith("image: required")


def test_fal(client_of: ClientOf, graph: SteppingGraph):
    served, client = client_of()
    served.services.spec = replace(served.services.spec, tasks=tuple(map(str, Task)))
    served.call(graph.allow)
    arguments = {
        "prompt": "a dog",
        "image_url": data_url(PICTURE),
        "mask_url": data_url(WHITE),
        "strength": 0.5,
        "num_inference_steps": 4,
    }
    result = client.subscribe(MODEL, arguments)
    assert result["images"]
    job = graph.jobs[-1]
    assert (job.params.task, job.params.strength) == ("fill", 0.5)
    assert job.recipes[1].mask_meaning == "white"
    arguments = {
        "prompt": "a dog",
        "control_image_url": data_url(PICTURE),
        "control_type": "depth",
        "controlnet_conditioning_scale": 0.7,
    }
    client.subscribe(MODEL, arguments)
    (use,) = graph.jobs[-1].params.pictures
    assert (use.kind, use.scale) == ("depth", 0.7)
    with pytest.raises(Exception, match="image: is no picture"):
        client.subscribe(MODEL, {"prompt": "x", "image_url": data_url(b"hello")})


def test_replicate(editing: Live, graph: SteppingGraph):
    client = replicate.client.Client("unused", base_url=editing.url)
    client.poll_interval = 0.01
    client.run(
        MODEL,
        input={
            "prompt": "a dog",
            "image": io.BytesIO(PICTURE),
            "mask": data_url(WHITE),
            "prompt_strength": 0.5,
            "num_inference_steps": 4,
        },
        file_encoding_strategy="base64",
    )
    job = graph.jobs[-1]
    assert (job.params.task, job.params.strength) == ("fill", 0.5)
    assert job.recipes[1].mask_meaning == "white"
    client.run(MODEL, input={"prompt": "make it blue", "input_image": data_url(PICTURE)})
    assert graph.jobs[-1].params.task == "edit"
    with pytest.raises(Exception, match="needs an image beside it"):
        client.run(MODEL, input={"prompt": "x", "mask": data_url(WHITE)})
    client._client.close()
