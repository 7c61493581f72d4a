"""Bad pictures and what contradicts itself: a 4xx that names field and fix before anything runs."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.serve.api.pictures.conftest import served
from tests.serve.api.pictures.samples import bomb, data_url, holed, moving, picture
from tests.serve.conftest import ClientOf
from tests.serve.fakes import FakeGraph

EDITS = "/v1/images/edits"
PICTURE = picture(128, 64)
URL = data_url(PICTURE)


def url_of(width: int, height: int, **more: Any) -> str:
    return data_url(picture(width, height, **more))


BAD_FILES = [
    (b"hello", "is no picture; send PNG, JPEG or WebP"),
    (b"<html>", "is no picture"),
    (PICTURE[:60], "ends too early; send all of it"),
    (PICTURE[:-1], "ends too early"),
    (picture(64, 64, file_format="jpeg")[:40], "ends too early"),
    (bomb(), "is 60000x60000 pixels; at most 16384 a side"),
    (bomb(16_000, 16_000), "is 16000x16000 pixels; at most 50000000 in all"),
    (picture(1, 1), "is 1x1 pixels; at least 16 a side"),
    (bomb(40_000, 1), "is 40000x1 pixels; at most 16384 a side"),
    (moving("gif"), "is GIF; send PNG, JPEG or WebP"),
    (moving("png"), "is an animation; send one still picture"),
]


@pytest.mark.parametrize(("data", "said"), BAD_FILES, ids=lambda value: str(value)[:30])
@pytest.mark.parametrize("field", ["image", "mask", "mask_image", "reference_image"])
async def test_bad_files(
    editing: httpx.AsyncClient, graph: FakeGraph, field: str, data: bytes, said: str
):
    files = {"image": ("a.png", PICTURE), field: ("b.png", data)}
    answer = await editing.post(EDITS, data={"prompt": "x"}, files=files)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_value", field)
    assert error["message"].startswith(f"{field}: ")
    assert said in error["message"]
    assert graph.jobs == []


async def test_cmyk_and_palettes_are_the_encoders_to_read(
    editing: httpx.AsyncClient, graph: FakeGraph
):
    for data in (
        picture(64, 64, mode="CMYK", colour=0, file_format="jpeg"),
        picture(64, 64, mode="P", colour=0),
        picture(64, 64, mode="I;16", colour=0),
    ):
        answer = await editing.post(EDITS, data={"prompt": "x"}, files={"image": ("a", data)})
        assert answer.status_code == 200, answer.text
    assert len(graph.jobs) == 3


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({}, "image", "image: required, and it is missing; send a file"),
        ({"image": []}, "image", "must have at least 1 items"),
        ({"image": URL, "mask": data_url(holed(64, 64))}, "mask", "is 64x64 pixels, and image 12"),
        ({"image": URL, "mask_image": url_of(64, 128)}, "mask_image", "send a mask as large as"),
        ({"image": URL, "mask": URL}, "mask", "no transparent part"),
        ({"image": URL, "mask": data_url(holed()), "mask_image": URL}, "mask_image", "contradicts"),
        ({"mask": data_url(holed())}, "mask", "needs an image beside it; send it as `image`"),
        ({"outpaint": {"left": 4}, "reference_image": URL}, "outpaint", "needs an image"),
        ({"image": URL, "outpaint": {}}, "outpaint", "adds nothing"),
        ({"image": URL, "outpaint": {"up": 4}}, "outpaint", "outpaint.up: is unknown here"),
        ({"image": URL, "outpaint": {"left": 5000}}, "outpaint", "at most 4096"),
        ({"image": URL, "strength": 0}, "strength", "leaves none; write more, such as 0.084"),
        ({"image": URL, "strength": 1.1}, "strength", "must be 0 to 1"),
        ({"image": URL, "strength": 0.5, "prompt": "[EDIT] x"}, "strength", "leave it out"),
        ({"image": URL, "prompt": "[GEN] x"}, "prompt", "[GEN] draws from words alone"),
        ({"image": [URL] * 5}, "image", "5 pictures"),
        ({"image": [URL] * 17}, "image", "must have at most 16 items"),
        ({"image": [URL] * 16, "reference_image": URL}, "image", "at most 16 pictures in all"),
        ({"image": [URL, data_url(b"x")]}, "image", "image[1]: is no picture"),
        ({"image": "hello"}, "image", "must be a file, a data URL, the id of a file here or a URL"),
        ({"image": "upload:abc"}, "image", "a file goes into the form"),
        ({"image": "data:image/png;base64,A"}, "image", "is a data URL that is damaged"),
        ({"image": {"image_url": URL, "file_id": "0" * 32}}, "image", "either image_url or file"),
        ({"image": {"path": "/etc/passwd"}}, "image", "must be text, or an object with"),
        ({"image": 7}, "image", "must be text, or an object with"),
        ({"image": "https://images.test/a.png"}, "image", "fetches no pictures from elsewhere"),
        ({"control": [{"image": URL, "kind": "c", "start": 0.5, "end": 0.5}]}, "control", "below"),
        ({"control": [{"image": URL, "kind": "A"}]}, "control", "control[0].kind: must be a short"),
        ({"control": [{"image": URL, "scale": 3}]}, "control", "control[0].scale: must be at most"),
        ({"control": [{"image": URL, "kind": "x"}] * 2}, "control", "2 pictures"),
        ({"image": URL, "strength": 0.5, "min_steps": 2, "deadline_ms": 9000}, "min_steps", "out"),
        ({"image": URL, "strength": 0.5, "skip_steps": True}, "skip_steps", "leave skip_steps out"),
        ({"image": URL, "markup": URL}, "markup", "marks on a picture are not read"),
        ({"image": URL, "background": "red"}, "background", "'auto', 'opaque' or a colour"),
        ({"image": URL, "background": "transparent"}, "background", "draws opaque images"),
        ({"image": URL, "ip_adapter": "x"}, "ip_adapter", "no image adapters"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
async def test_what_does_not_fit(
    editing: httpx.AsyncClient, graph: FakeGraph, body: dict[str, Any], param: str, said: str
):
    answer = await editing.post(EDITS, json={"prompt": "x", **body})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert said in error["message"]
    assert len(error["message"]) < 400
    assert graph.jobs == []


async def test_a_map_of_a_kind_that_nobody_follows(client_of: ClientOf, graph: FakeGraph):
    client = client_of(served(graph, tasks=("text-to-image",), kinds=("canny", "depth")))
    body = {"prompt": "x", "control": [{"image": URL, "kind": "pose"}]}
    error = (await client.post(EDITS, json=body)).json()["error"]
    assert (error["param"], error["message"]) == (
        "control",
        "control: 'pose' is no kind that is followed here; write one of canny, depth",
    )


async def test_true_guidance_of_a_task_without_it(editing: httpx.AsyncClient):
    body = {"image": URL, "mask": data_url(holed()), "negative_prompt": "x", "true_cfg_scale": 2}
    error = (await editing.post(EDITS, json={"prompt": "x", **body})).json()["error"]
    assert (error["code"], error["param"]) == ("unsupported_feature", "true_cfg_scale")


async def test_several_mistakes_are_told_at_once(editing: httpx.AsyncClient):
    body = {
        "prompt": "[GEN] x",
        "image": [URL, data_url(b"x")],
        "mask": data_url(b"y"),
        "mask_image": "",
        "n": 100,
        "guidance_scale": -1,
    }
    error = (await editing.post(EDITS, json=body)).json()["error"]
    said = error["message"].split("; ")
    for each in ("image[1]: is no picture", "mask_image: contradicts mask", "n: must be 1 to 10"):
        assert any(one.startswith(each) for one in said), (each, said)
    assert error["param"] == "image"


async def test_the_model_to_add_is_named(client_of: ClientOf, graph: FakeGraph):
    client = client_of(served(graph, tasks=("text-to-image",)))
    error = (await client.post(EDITS, json={"prompt": "x", "image": URL})).json()["error"]
    assert (error["code"], error["param"]) == ("unsupported_feature", "image")
    assert error["message"].startswith(
        "image: test-model does not do that: a model is needed that edits a picture by instruction"
    )


async def test_bodies_are_bounded(client_of: ClientOf, graph: FakeGraph):
    limits = {"max_body_bytes": 1024, "max_picture_body_bytes": 4096}
    client = client_of(served(graph, limits=limits, pictures={"max_bytes": 2000}))
    big = picture(64, 64) + bytes(2000)
    answer = await client.post(EDITS, data={"prompt": "x"}, files={"image": ("a", big)})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "image")
    assert "at most 2000" in answer.json()["error"]["message"]
    for path in (EDITS, "/v1/images/preflight", "/v1/jobs"):
        answer = await client.post(path, data={"prompt": "x" * 5000})
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
        assert "4096" in answer.json()["error"]["message"]
    answer = await client.post("/v1/images/generations", json={"prompt": "x" * 2000})
    assert answer.status_code == 413
