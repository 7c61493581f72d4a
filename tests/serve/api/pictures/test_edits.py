"""`/v1/images/edits` and `/v1/images/variations`: what comes in, and what is drawn from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest

from pipelines.contracts import GenerationJob
from pipelines.pictures.recipe import NO_PADDING, Padding
from pipelines.tasks import PictureRole, PictureUse
from serve.http import create_app
from tests.serve.api.asgi import Asked
from tests.serve.api.pictures.conftest import served
from tests.serve.api.pictures.samples import data_url, holed, picture, turned
from tests.serve.conftest import ClientOf
from tests.serve.fakes import FakeGraph

EDITS, VARIATIONS = "/v1/images/edits", "/v1/images/variations"
PREFLIGHT, GENERATIONS = "/v1/images/preflight", "/v1/images/generations"
PICTURE, MASK = picture(128, 64), picture(128, 64, mode="L", colour=255)
BASE = ("text-to-image", "image-to-image", "inpaint")


def file(data: bytes = PICTURE) -> tuple[str, bytes]:
    return ("picture.png", data)


def roles(job: GenerationJob) -> list[str]:
    return [str(use.role) for use in job.params.pictures]


async def drawn(
    client: httpx.AsyncClient, graph: FakeGraph, path: str = EDITS, **given: Any
) -> tuple[GenerationJob, dict[str, Any]]:
    answer = await client.post(path, **given)
    assert answer.status_code == 200, answer.text
    return graph.jobs[-1], answer.json()


async def test_an_edit_by_instruction(editing: httpx.AsyncClient, graph: FakeGraph):
    job, answer = await drawn(
        editing,
        graph,
        data={"prompt": "[EDIT] make it blue", "n": "2", "seed": "7"},
        files={"image": file()},
    )
    params = job.params
    assert (params.task, params.prompt, params.num_images) == ("edit", "make it blue", 2)
    assert (params.width, params.height, params.strength) == (128, 64, 1.0)
    assert [use.role for use in params.pictures] == [PictureRole.REFERENCE]
    (recipe,) = job.recipes
    assert recipe.source is not None
    assert (recipe.source.data, recipe.source.name) == (PICTURE, "image")
    assert recipe.use == params.pictures[0]
    assert not job.finish.pastes_back
    assert (answer["data"][0]["revised_prompt"], answer["warnings"]) == ("make it blue", [])


async def test_inside_a_mask(client_of: ClientOf, graph: FakeGraph):
    client = client_of(served(graph, tasks=BASE))
    job, answer = await drawn(
        client, graph, data={"prompt": "a dog"}, files={"image": file(), "mask": file(holed())}
    )
    assert (job.params.task, job.params.strength) == ("inpaint", 1.0)
    image, mask = job.recipes
    assert (image.use.role, mask.use.role) == (PictureRole.IMAGE, PictureRole.MASK)
    assert mask.source is not None
    assert (mask.source.data, mask.mask_meaning) == (holed(), "transparent")
    assert job.finish.pastes_back
    assert answer["size"] == "128x64"
    white = {"image": data_url(PICTURE), "mask_image": data_url(MASK), "strength": 0.5}
    job, _ = await drawn(client, graph, json={"prompt": "a dog", "paste_back": False, **white})
    assert job.recipes[1].mask_meaning == "white"
    assert (job.params.strength, job.finish.pastes_back) == (0.5, False)


async def test_a_fill_has_image_mask_and_masked_image(editing: httpx.AsyncClient, graph: FakeGraph):
    body = {"image": data_url(PICTURE), "mask_image": data_url(MASK), "background": "#102030"}
    job, _ = await drawn(editing, graph, json={"prompt": "a dog", **body})
    assert job.params.task == "fill"
    assert roles(job) == ["image", "mask", "masked-image"]
    masked = job.recipes[2]
    assert masked.source is not None
    assert masked.mask is not None
    assert (masked.source.data, masked.mask.data) == (PICTURE, MASK)
    assert {each.background for each in job.recipes} == {(0x10, 0x20, 0x30)}


async def test_outpaint(editing: httpx.AsyncClient, graph: FakeGraph):
    job, answer = await drawn(
        editing,
        graph,
        data={"prompt": "a beach", "outpaint[right]": "64", "outpaint[top]": "32"},
        files={"image": file()},
    )
    assert answer["size"] == "192x96"
    assert {each.padding for each in job.recipes} == {Padding(top=32, right=64)}
    assert job.recipes[1].source is None
    assert (job.finish.pastes_back, job.params.strength) == (True, 1.0)


async def test_image_to_image(editing: httpx.AsyncClient, graph: FakeGraph):
    job, _ = await drawn(
        editing, graph, data={"prompt": "a dog", "strength": "0.4"}, files={"image": file()}
    )
    assert (job.params.task, job.params.strength) == ("image-to-image", 0.4)
    use = PictureUse(role=PictureRole.IMAGE, height=64, width=128)
    assert job.params.pictures == (use,)
    assert job.recipes[0].padding == NO_PADDING


async def test_without_an_editing_model(client_of: ClientOf, graph: FakeGraph):
    client = client_of(served(graph, tasks=BASE))
    job, answer = await drawn(client, graph, data={"prompt": "a dog"}, files={"image": file()})
    assert (job.params.task, job.params.strength) == ("image-to-image", 0.6)
    (warning,) = answer["warnings"]
    assert warning.startswith("image: used; test-model does not edit by instruction")


async def test_several_pictures_and_references(editing: httpx.AsyncClient, graph: FakeGraph):
    job, _ = await drawn(
        editing,
        graph,
        data={"prompt": "both"},
        files=[
            ("image[]", file()),
            ("image[]", file(picture(64, 128))),
            ("reference_image", file(picture(80, 80))),
        ],
    )
    assert job.params.task == "edit"
    names = [each.source.name for each in job.recipes if each.source]
    assert names == ["image[0]", "image[1]", "reference_image"]
    sizes = [(use.width, use.height) for use in job.params.pictures]
    assert [width / height for width, height in sizes] == [2.0, 0.5, 1.0]


async def test_control_maps(editing: httpx.AsyncClient, client_of: ClientOf, graph: FakeGraph):
    entry = {"image": data_url(PICTURE), "kind": "canny", "scale": 0.5, "start": 0.1, "end": 0.9}
    job, _ = await drawn(editing, graph, json={"prompt": "x", "control": [entry]})
    assert job.params.task == "control"
    assert job.params.pictures == (
        PictureUse(
            role=PictureRole.CONTROL,
            height=64,
            width=128,
            kind="canny",
            scale=0.5,
            start=0.1,
            end=0.9,
        ),
    )
    beside = client_of(served(graph, tasks=BASE, kinds=("depth",)))
    body = {"control": {"image": data_url(PICTURE)}, "image": data_url(PICTURE)}
    job, _ = await drawn(beside, graph, json={"prompt": "x", "quality": "low", **body})
    assert (job.params.task, roles(job)) == ("image-to-image", ["image", "control"])
    assert (job.params.pictures[1].kind, job.params.skips_steps) == ("depth", False)


async def test_a_variation(editing: httpx.AsyncClient, client_of: ClientOf, graph: FakeGraph):
    job, _ = await drawn(editing, graph, VARIATIONS, files={"image": file()}, data={"n": "2"})
    assert (job.params.task, job.params.prompt, job.params.num_images) == ("variation", "", 2)
    assert roles(job) == ["reference"]
    base = client_of(served(graph, tasks=BASE))
    job, answer = await drawn(base, graph, VARIATIONS, files={"image": file()})
    assert (job.params.task, job.params.strength) == ("image-to-image", 0.6)
    assert answer["warnings"][0].startswith("image: used; no model for variations is served")


async def test_generations_take_pictures_in_json_too(editing: httpx.AsyncClient, graph: FakeGraph):
    body = {"prompt": "x", "image": data_url(PICTURE), "strength": 0.5}
    job, _ = await drawn(editing, graph, GENERATIONS, json=body)
    assert job.params.task == "image-to-image"
    answer = await editing.post(GENERATIONS, data={"prompt": "x"}, files={"image": file()})
    assert answer.status_code == 415


class TestSize:
    @pytest.mark.parametrize(
        ("width", "height", "size"),
        [
            (128, 64, "128x64"),
            (100, 70, "96x64"),
            (2000, 1000, "512x256"),
            (30, 90, "64x192"),
            (16, 1600, "64x512"),
        ],
    )
    async def test_auto_keeps_the_ratio(
        self, editing: httpx.AsyncClient, graph: FakeGraph, width: int, height: int, size: str
    ):
        files = {"image": file(picture(width, height))}
        job, answer = await drawn(
            editing, graph, data={"prompt": "x", "strength": "0.5", "size": "auto"}, files=files
        )
        assert answer["size"] == size
        assert (job.params.pictures[0].width, job.params.pictures[0].height) == (
            job.params.width,
            job.params.height,
        )

    async def test_auto_is_of_the_picture_as_it_is_seen(
        self, editing: httpx.AsyncClient, graph: FakeGraph
    ):
        files = {"image": file(turned(128, 64, 6))}
        _, answer = await drawn(
            editing, graph, data={"prompt": "x", "strength": "0.5"}, files=files
        )
        assert answer["size"] == "64x128"

    async def test_an_edit_has_the_models_own_area(
        self, editing: httpx.AsyncClient, graph: FakeGraph
    ):
        files = {"image": file(picture(1280, 640))}
        job, answer = await drawn(editing, graph, data={"prompt": "x"}, files=files)
        assert answer["size"] == "128x64"
        assert (job.params.pictures[0].width, job.params.pictures[0].height) == (128, 64)

    async def test_an_edit_keeps_a_size_that_its_model_was_trained_on(
        self, client_of: ClientOf, graph: FakeGraph
    ):
        given = served(graph)
        given.spec = replace(given.spec, trained_sizes=((64, 64), (96, 192)))
        files = {"image": file(picture(192, 96))}
        _, answer = await drawn(client_of(given), graph, data={"prompt": "x"}, files=files)
        assert (answer["size"], answer["warnings"]) == ("192x96", [])

    async def test_another_size_leaves_a_reference_as_it_is(
        self, editing: httpx.AsyncClient, graph: FakeGraph
    ):
        body = {"prompt": "x --ar 1:2", "image": data_url(PICTURE)}
        job, answer = await drawn(editing, graph, json=body)
        width, height = map(int, answer["size"].split("x"))
        assert height == 2 * width
        assert job.params.pictures[0].width == 2 * job.params.pictures[0].height

    async def test_another_ratio_stretches_and_says_so(
        self, editing: httpx.AsyncClient, graph: FakeGraph
    ):
        body = {"prompt": "x", "image": data_url(PICTURE), "strength": 0.5}
        _, answer = await drawn(editing, graph, json={**body, "size": "64x64"})
        assert answer["warnings"] == ["size: used; the image is stretched from 128x64 to 64x64"]
        _, answer = await drawn(editing, graph, json={**body, "size": "256x128"})
        assert answer["warnings"] == []

    async def test_pixels_that_cannot_be_kept_one_by_one(
        self, editing: httpx.AsyncClient, graph: FakeGraph
    ):
        body = {"image": data_url(picture(100, 70)), "outpaint": {"left": 1}, "prompt": "x"}
        _, answer = await drawn(editing, graph, json=body)
        (warning,) = answer["warnings"]
        assert warning.startswith("paste_back: used; the image is fitted from 101x70 to 96x64")


async def test_what_is_adjusted_is_named(editing: httpx.AsyncClient, graph: FakeGraph):
    body = {"image": data_url(PICTURE), "input_fidelity": "high", "paste_back": True}
    _, answer = await drawn(editing, graph, json={"prompt": "x", **body})
    assert [warning.partition(":")[0] for warning in answer["warnings"]] == [
        "input_fidelity",
        "paste_back",
    ]
    _, answer = await drawn(
        editing, graph, json={"prompt": "x --no dogs", "image": data_url(PICTURE)}
    )
    assert answer["warnings"] == ["prompt: --no: not used unless true_cfg_scale is above 1"]
    job, answer = await drawn(
        editing,
        graph,
        json={"prompt": "x --no dogs", "image": data_url(PICTURE), "true_cfg_scale": 2},
    )
    assert (job.params.prompt, job.params.negative_prompt) == ("x", "dogs")
    body = {"image": data_url(PICTURE), "strength": 0.5, "quality": "low"}
    job, answer = await drawn(editing, graph, json={"prompt": "x", **body})
    assert answer["warnings"][0].startswith("quality: all steps are run")
    assert not job.params.skips_steps
    _, answer = await drawn(editing, graph, GENERATIONS, json={"prompt": "x", "strength": 1})
    assert answer["warnings"] == ["strength: not used without an image"]


async def test_events(graph: FakeGraph):
    app = create_app(served(graph))
    body = {"prompt": "x", "image": data_url(PICTURE), "stream": True, "n": 2}
    for path in (EDITS, VARIATIONS):
        events = await Asked(
            app, path, body if path == EDITS else {**body, "n": 1}
        ).events_after_start()
        assert {event["event"] for event in events} == {"image_edit.completed"}
        assert all(event["data"]["type"] == event["event"] for event in events)


class TestPreflight:
    async def test_what_would_be_drawn(self, editing: httpx.AsyncClient, graph: FakeGraph):
        data = {"prompt": "a dog", "strength": "0.5", "input_fidelity": "low", "kind": "edit"}
        files = {"image": file(), "mask": file(holed())}
        answer = (await editing.post(PREFLIGHT, data=data, files=files)).json()
        parameters = answer["parameters"]
        assert (parameters["task"], parameters["strength"]) == ("fill", 0.5)
        assert parameters["paste_back"] is True
        assert parameters["pictures"][1] == {
            "role": "mask",
            "field": "mask",
            "size": "128x64",
            "kind": None,
        }
        status = {name: each["status"] for name, each in answer["treatment"].items()}
        assert status == {
            "prompt": "used",
            "strength": "used",
            "input_fidelity": "adjusted",
            "kind": "used",
            "image": "used",
            "mask": "used",
        }
        assert graph.jobs == []
        # Half of twelve steps, of 128x64 pixels.
        assert answer["cost"]["megapixel_steps"] == 6 * 128 * 64 / 1e6

    async def test_mistakes_are_told_at_once(self, editing: httpx.AsyncClient):
        body = {
            "prompt": "[GEN] x",
            "image": data_url(b"hello"),
            "strength": 7,
            "n": 100,
            "webhook_url": "http://x",
        }
        error = (await editing.post(PREFLIGHT, json=body)).json()["error"]
        assert error["param"] == "image"
        for said in (
            "image: is no picture",
            "prompt: [GEN]",
            "strength: must be 0 to 1, got 7",
            "n: must be",
            "webhook_url: ",
        ):
            assert said in error["message"]


async def test_equal_pictures_share_a_drawing_however_they_came(
    client_of: ClientOf, graph: FakeGraph
):
    client = client_of(served(graph, result_cache={"max_bytes": 10**6}))
    body = {"prompt": "x", "seed": 3, "response_format": "b64_json"}
    await drawn(client, graph, data=body, files={"image": file()})
    again = await client.post(EDITS, json={**body, "image": data_url(PICTURE)})
    assert again.headers["x-sluice-cache"] == "hit"
    other = data_url(picture(128, 64, colour="blue"))
    answer = await client.post(EDITS, json={**body, "image": other})
    assert "x-sluice-cache" not in answer.headers
    assert len(graph.jobs) == 2


async def test_whose_pictures_they_are_goes_with_them(editing: httpx.AsyncClient, graph: FakeGraph):
    job, _ = await drawn(
        editing, graph, data={"prompt": "x", "user": "bob"}, files={"image": file()}
    )
    assert {each.tenant for each in job.recipes} == {"bob"}
    assert job.finish.owner == "bob"
